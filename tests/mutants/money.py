"""Harm to orders, users and money."""
from tests.mutants.change import Change

CHANGES = [
    Change(
        "create-order-hides-defects", "any exception counts as an unknown outcome, so a defect is answered 202",
        "orders/service.py", "            except PASSING:\n                order, promised",
        "            except Exception:\n                order, promised",
        ("unit/test_order_flow.py",)),
    Change(
        "refusal-of-a-promised-order", "an order that was answered 202 is answered 404 when its key is repeated",
        "orders/service.py", "if order.reason == Reason.ACCOUNT_NOT_FOUND and not promised:",
        "if order.reason == Reason.ACCOUNT_NOT_FOUND:",
        ("unit/test_order_flow.py",)),
    Change(
        "promised-order-vanishes", "an order that was answered 202 leaves the list when it is refused",
        "orders/store.py", "Order.reason != Reason.ACCOUNT_NOT_FOUND, Order.promised)",
        "Order.reason != Reason.ACCOUNT_NOT_FOUND)",
        ("integration/test_databases.py",)),
    Change(
        "unknown-outcome-is-no-trouble", "an outcome of a newer billing leaves an order pending, and nobody is told",
        "orders/service.py",
        '            return RpcRefused(f"billing gave an outcome that is not known here: {outcome!r}")',
        "            return order",
        ("unit/test_order_flow.py",)),
    Change(
        "orders-claimed-twice", "two replicas recover the same orders, and wait for each other",
        "orders/store.py", "order by retry_at limit $1 for update skip locked", "order by retry_at limit $1",
        ("integration/test_databases.py",)),
    Change(
        "orders-claimed-in-turn", "a replica that recovers waits for the locks of another one",
        "orders/store.py", "order by retry_at limit $1 for update skip locked", "order by retry_at limit $1 for update",
        ("integration/test_databases.py",)),
    Change(
        "finish-waits", "an order that somebody holds holds up all others of its round",
        "orders/store.py", "where id = any($1) order by id for update skip locked",
        "where id = any($1) order by id for update",
        ("integration/test_databases.py",)),
    Change(
        "orders-stored-in-no-order", "two rounds with the same keys wait for each other for ever",
        "orders/store.py", "order by key  --", "--",
        ("integration/test_locks.py",)),
    Change(
        "pending-user-unknown", "an order is refused whose user has been created, but has no account yet",
        "users/store.py", '"select id from users where id = any($1)"',
        "\"select id from users where id = any($1) and status = 'active'\"",
        ("integration/test_settling.py",)),
    Change(
        "two-answers-for-a-key", "a key that is sent twice at once has two answers, 201 and 409",
        "users/store.py", "        take_turns(session, key)  # as two tables may hold it\n", "",
        ("integration/test_http_contract.py",)),
    Change(
        "deposit-passes-as-payment", "an operation id of a deposit passes as paid",
        "billing/store.py", "if (operation.kind, operation.user_id, operation.amount) != (Kind.PAYMENT,",
        "if (operation.user_id, operation.amount) != (",
        ("integration/test_databases.py",)),
    Change(
        "accounts-locked-in-no-order", "two rounds of payments that wait for accounts wait for each other",
        "billing/store.py", "        order by user_id for update{waiting}", "        for update{waiting}",
        ("integration/test_locks.py",)),
    Change(
        "pay-waits", "one locked account holds up the payments of all others",
        "billing/store.py", 'waiting=" skip locked"', 'waiting=""',
        ("integration/test_databases.py",)),
    Change(
        "all-payments-decided-at-once", "a payment that the account has money for is refused, behind a larger one",
        "billing/store.py", "        where balance >= total - amount\n", "",
        ("integration/test_databases.py",)),
    Change(
        "paid-becomes-refused", "a late refusal overwrites a payment: the money is gone, the order rejected",
        "billing/store.py", "'account_not_found') on conflict do nothing",
        "'account_not_found') on conflict (id) do update set outcome = 'account_not_found'",
        ("integration/test_databases.py",)),
    Change(
        "refusal-decided-again", "a withdrawal that was refused under its key is carried out when it is sent again",
        "billing/service.py", "                if is_new:\n                    store.settle",
        "                if is_new or operation.outcome != Outcome.ACCEPTED:\n                    store.settle",
        ("integration/test_http_contract.py",)),
    Change(
        "audit-overlooks-doubled-keys", "the audit does not see a key with two effects",
        "audit.py", "            self._keys()\n", "",
        ("faults/test_audit.py",)),
    Change(
        "audit-overlooks-undecided-operations", "the audit does not see an operation without an outcome",
        "audit.py", 'self._violation(f"operation {id_}: neither accepted nor refused")', "pass",
        ("faults/test_audit.py",)),
    Change(
        "audit-overlooks-letters-of-no-order", "the audit does not see a letter whose order does not exist",
        "audit.py", '("notifications", LETTERS, "letter")):', "):",
        ("faults/test_audit.py",)),
]
