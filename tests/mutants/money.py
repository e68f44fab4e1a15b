"""Harm to orders, users and money."""
from tests.mutants.change import Change

CHANGES = [
    Change(
        "create-order-hides-defects", "any exception counts as an unknown outcome, so a defect is answered 202",
        "orders/service.py", "            except PASSING:\n                order, promised",
        "            except Exception:\n                order, promised",
        ("unit/test_order_flow.py::test_a_defect_is_seen_as_one_and_a_promise_that_is_not_written_down_is_not_given",)),
    Change(
        "refusal-of-a-promised-order", "an order that was answered 202 is answered 404 when its key is repeated",
        "orders/service.py", "if order.reason == Reason.ACCOUNT_NOT_FOUND and not promised:",
        "if order.reason == Reason.ACCOUNT_NOT_FOUND:",
        ("unit/test_order_flow.py::test_the_answer_says_how_the_order_is",)),
    Change(
        "promised-order-vanishes", "an order that was answered 202 leaves the list when it is refused",
        "orders/store.py", "Order.reason != Reason.ACCOUNT_NOT_FOUND, Order.promised)",
        "Order.reason != Reason.ACCOUNT_NOT_FOUND)",
        ("integration/test_databases.py::test_a_promise_is_kept_also_by_the_list",)),
    Change(
        "unknown-outcome-is-no-trouble", "an outcome of a newer billing leaves an order pending, and nobody is told",
        "orders/service.py",
        '            return RpcRefused(f"billing gave an outcome that is not known here: {outcome!r}")',
        "            return order",
        ("unit/test_order_flow.py::test_an_outcome_ends_the_order_or_leaves_it_pending",)),
    Change(
        "orders-claimed-twice", "two replicas recover the same orders, and wait for each other",
        "orders/store.py", "order by retry_at limit $1 for update skip locked", "order by retry_at limit $1",
        ("integration/test_databases.py::test_two_recoveries_never_take_the_same_order",)),
    Change(
        "orders-claimed-in-turn", "a replica that recovers waits for the locks of another one",
        "orders/store.py", "order by retry_at limit $1 for update skip locked", "order by retry_at limit $1 for update",
        ("integration/test_locks.py::test_what_somebody_holds_is_passed_over",)),
    Change(
        "finish-waits", "an order that somebody holds holds up all others of its round",
        "orders/store.py", "where id = any($1) for update skip locked",
        "where id = any($1) for update",
        ("integration/test_locks.py::test_an_order_that_somebody_holds_holds_up_no_other",)),
    Change(
        "orders-stored-in-no-order", "two rounds with the same keys wait for each other for ever",
        "orders/store.py", "order by key  --", "--",
        ("integration/test_locks.py::test_rounds_that_insert_the_same_never_wait_for_each_other",)),
    Change(
        "pending-user-unknown", "an order is refused whose user has been created, but has no account yet",
        "users/store.py", '"select id from users where id = any($1)"',
        "\"select id from users where id = any($1) and status = 'active'\"",
        ("integration/test_settling.py::test_an_order_of_a_user_whose_account_is_on_its_way_waits_for_it",)),
    Change(
        "two-answers-for-a-key", "a key that is sent twice at once has two answers, 201 and 409",
        "users/store.py", "        take_turns(session, key)  # as two tables may hold it\n", "",
        ("integration/test_locks.py::test_a_key_whose_request_is_refused_many_times_at_once_has_one_answer",)),
    Change(
        "deposit-passes-as-payment", "an operation id of a deposit passes as paid",
        "billing/store.py", "if (operation.kind, operation.user_id, operation.amount) != (Kind.PAYMENT,",
        "if (operation.user_id, operation.amount) != (",
        ("integration/test_databases.py::test_an_operation_id_of_another_kind_is_no_payment",)),
    Change(
        "accounts-locked-in-no-order", "two rounds of payments that wait for accounts wait for each other",
        "billing/store.py", "        order by user_id for update{waiting}", "        for update{waiting}",
        ("integration/test_locks.py::test_payments_that_wait_for_accounts_never_wait_for_each_other",)),
    Change(
        "pay-waits", "one locked account holds up the payments of all others",
        "billing/store.py", 'waiting=" skip locked"', 'waiting=""',
        ("integration/test_databases.py::test_a_locked_account_is_left_out_and_holds_up_nobody",)),
    Change(
        "all-payments-decided-at-once", "a payment that the account has money for is refused, behind a larger one",
        "billing/store.py", "        where balance >= total - amount\n", "",
        ("integration/test_databases.py::test_payments_together_end_as_they_would_one_after_the_other",)),
    Change(
        "paid-becomes-refused", "a late refusal overwrites a payment: the money is gone, the order rejected",
        "billing/store.py", "'account_not_found') on conflict do nothing",
        "'account_not_found') on conflict (id) do update set outcome = 'account_not_found'",
        ("integration/test_databases.py::test_what_was_paid_cannot_be_refused",)),
    Change(
        "refusal-decided-again", "a withdrawal that was refused under its key is carried out when it is sent again",
        "billing/service.py", "                if is_new:\n                    store.settle",
        "                if is_new or operation.outcome != Outcome.ACCEPTED:\n                    store.settle",
        ("integration/test_http_contract.py::test_a_refusal_is_repeated_under_its_key",)),
    Change(
        "audit-overlooks-doubled-keys", "the audit does not see a key with two effects",
        "audit.py", "            self._keys()\n", "",
        ("faults/test_audit.py::test_a_key_with_two_effects_is_found",)),
    Change(
        "audit-overlooks-undecided-operations", "the audit does not see an operation without an outcome",
        "audit.py", 'self._violation(f"operation {id_}: neither accepted nor refused")', "pass",
        ("faults/test_audit.py::test_each_kind_of_violation_is_found_and_named",)),
    Change(
        "audit-overlooks-letters-of-no-order", "the audit does not see a letter whose order does not exist",
        "audit.py", '("notifications", LETTERS, "letter")):', "):",
        ("faults/test_audit.py::test_each_kind_of_violation_is_found_and_named",)),
    Change(
        "mismatch-asked-for-ever", "an order whose id billing has used for something else is asked for, for ever",
        "orders/domain.py", "case Outcome.INSUFFICIENT_FUNDS | Outcome.MISMATCH:",
        "case Outcome.INSUFFICIENT_FUNDS:",
        ("unit/test_domain.py", "unit/test_order_flow.py")),
    Change(
        "promise-not-written-down", "an order that was answered 202 is hidden when it is refused",
        "orders/service.py", "                order, promised = self._promise(order)  # and",
        "                pass  # and",
        ("unit/test_order_flow.py",)),
    Change(
        "due-again-at-once", "all replicas ask billing for the same orders, over and over",
        "orders/store.py", "update orders set retry_at = now() + $2 * (1 + random() / 4), attempts = attempts + 1",
        "update orders set retry_at = now() - $2, attempts = attempts + 1",
        ("integration/test_locks.py::test_what_somebody_holds_is_passed_over",)),
    Change(
        "everybody-waits-for-a-busy-account", "orders of one locked account hold all workers",
        "orders/service.py", "        if account in self.busy:",
        "        if False:",
        ("unit/test_order_flow.py",)),
    Change(
        "outage-of-users-met-by-each", "in an outage recovery waits for the deadline of an RPC for each order",
        "orders/service.py", "                    if is_outage(error):\n                        break  #",
        "                    if is_outage(error):\n                        pass  #",
        ("unit/test_order_flow.py",)),
    Change(
        "events-of-others-published",
        "an order that somebody else holds, and may end otherwise, is told of",
        "orders/store.py", "if row and finished.get(order.id) == row.event_id]",
        "if row]",
        ("integration/test_databases.py::test_an_order_ends_once",)),
    Change(
        "one-id-two-payments", "of two payments under one id the second passes as paid",
        "billing/store.py", "if payment == asked[payment.operation_id] else",
        "if True else",
        ("integration/test_databases.py::test_an_operation_id_belongs_to_one_payment",)),
    Change(
        "locked-operation-fails-the-round", "a payment that another round is carrying out fails all that come with it",
        "billing/store.py", "            outcomes |= {payment.operation_id: Outcome.BUSY for payment in rest}",
        "            raise",
        ("integration/test_locks.py::test_a_payment_that_somebody_else_is_carrying_out_is_busy",)),
    Change(
        "refused-deposit-not-kept", "a deposit that was answered 404 under its key is made when it is sent again",
        "billing/service.py", "== Outcome.ACCOUNT_NOT_FOUND and key is None:",
        "== Outcome.ACCOUNT_NOT_FOUND:",
        ("integration/test_settling.py::test_a_key_keeps_its_first_request_and_its_answer_also_when_it_was_refused",)),
    Change(
        "user-not-told-of", "letters have no address",
        "users/service.py", "self.outbox.add(session, [UserRegistered(user_id=user.id, email=user.email)])",
        "pass",
        ("integration/test_consistency.py::test_a_letter_gets_its_address_when_the_user_is_known_at_last",)),
]
