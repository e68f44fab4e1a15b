"""Mending what the audit finds, as far as that needs no judgement; for the time after a database was restored.

Every repair is what a running service does anyway, under the same ids: it may be made twice, beside the services, by
several people at once. Nothing is ever deleted, and no ended order is changed. What needs a person is named.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from services.billing import store as billing
from services.billing.store import Movement
from services.contracts import OrderPaid, OrderRejected, Outcome, Payment, UserRegistered
from services.kit.db.connecting import engine_of
from services.kit.ids import new_id
from services.ops import republish
from services.ops.settle import make_due
from services.ops.violations import Kind, Violation
from services.orders import store as orders
from services.orders.domain import event_for
from services.orders.store import OrderRequest
from services.shop import SERVICES
from services.users import store as users

BATCH = 500
BY_HAND = "needs a person, see docs/operations.md"

USERS = f"""
    select id, email from users where status = 'active' and id > :after order by id limit {BATCH}"""
ACCOUNTS = f"select user_id from accounts where user_id > :after order by user_id limit {BATCH}"
PRESENT = {
    "users": "select id from users where id = any(:ids)",
    "billing": "select user_id from accounts where user_id = any(:ids)",
    "notifications": "select user_id from contacts where user_id = any(:ids)",
}
PAYMENTS = "select id, user_id, amount from operations where id = any(:ids) and kind = 'payment'"
BALANCE = "select balance from accounts where user_id = :id for update"
FIRST = UUID(int=0)


@dataclass(frozen=True)
class Line:
    """What was, or in a dry run would be, done about one thing; `is_mended` is false if it is left to a person."""

    is_mended: bool
    what: str

    def __str__(self) -> str:
        return f"{'MENDED' if self.is_mended else 'LEFT  '}  {self.what}"


class Reconciliation:
    """One reconciliation of the databases at `urls`; a dry run changes nothing, and says what would be done."""

    def __init__(self, urls: dict[str, str], dry_run: bool) -> None:
        self.urls = urls
        self.dry_run = dry_run
        self.databases: dict[str, Engine] = {}

    def run(self, violations: Sequence[Violation]) -> Iterator[Line]:
        """Mend what can be mended of the violations, and what users, accounts and addresses lack; yield each line."""
        with ExitStack() as stack:
            for service in SERVICES:
                engine = engine_of(self.urls[service], isolation_level="AUTOCOMMIT")
                self.databases[service] = stack.enter_context(engine)
            yield from self._users()  # first, as a payment needs its account
            yield from self._accounts()
            mended: dict[Kind, Callable[[list[UUID]], Iterator[Line]]] = {
                Kind.PENDING: self._make_due,
                Kind.NO_PAYMENT: self._pay,
                Kind.PAYMENT_ALONE: self._store,
                Kind.LETTER_ALONE: self._store,
                Kind.NO_LETTER: self._write,
            }
            for repair in dict.fromkeys(mended.values()):
                ids = [one.id for one in violations if mended.get(one.kind) == repair]
                yield from (line for some in batches(list(dict.fromkeys(ids))) for line in repair(some))
            yield from (Line(False, f"{one}: {BY_HAND}") for one in violations if one.kind not in mended)

    def _users(self) -> Iterator[Line]:
        """Every active user has an account in billing, and an address in notifications."""
        after = FIRST
        while found := {row.id: row.email for row in self._rows("users", USERS, after=after)}:
            after = max(found)
            for service, mends, repair, what in (
                ("billing", "billing", open_accounts, "has no account: it is opened"),
                ("notifications", "users", self._tell_of_users, "has no address in notifications: they are told again"),
            ):
                lacking = {id_: found[id_] for id_ in found.keys() - self._present(service, list(found))}
                if lacking and not self.dry_run:
                    with self.databases[mends].connect() as connection:
                        repair(connection, lacking)
                yield from (Line(True, f"user {id_}: {what}") for id_ in sorted(lacking))

    def _accounts(self) -> Iterator[Line]:
        """Every account has a user. If not, only a person can know the name."""
        after = FIRST
        while found := [row.user_id for row in self._rows("billing", ACCOUNTS, after=after)]:
            after = found[-1]
            for id_ in sorted(set(found) - self._present("users", found)):
                yield Line(False, f"account {id_}: there is no such user: {BY_HAND}")

    def _tell_of_users(self, connection: Connection, emails: dict[UUID, str]) -> None:
        held = republish.of_rows(connection, [UserRegistered.TYPE], "user_id", list(emails))
        events = {id_: UserRegistered(user_id=id_, email=emails[id_]) for id_ in emails.keys() - held}
        users.tell_again(connection, events, lease_s=0)

    def _make_due(self, ids: list[UUID]) -> Iterator[Line]:
        """A pending order is settled by recovery, which asks billing."""
        if not self.dry_run:
            make_due(self.databases["orders"], ids)
        yield from (Line(True, f"order {id_}: pending: it is settled now, by recovery") for id_ in ids)

    def _pay(self, ids: list[UUID]) -> Iterator[Line]:
        """Billing has forgotten a payment: it is made again under the order's id, if the account has the money."""
        with self.databases["orders"].connect() as connection:
            found = list(orders.find(connection, ids).values())
        for order in found:
            payment = Payment(operation_id=order.id, user_id=order.user_id, amount=order.price)
            movement, what = Movement.of_payment(payment), f"order {order.id}: paid, but billing has no payment"
            if self.dry_run:
                yield Line(True, f"{what}: {order.price} are taken, if account {order.user_id} has them")
            elif self._pays(movement):
                yield Line(True, f"{what}: {order.price} are taken from account {order.user_id}")
            else:
                yield Line(False, f"{what}, and account {order.user_id} cannot pay {order.price}: {BY_HAND}")

    def _pays(self, movement: Movement) -> bool:
        """Make a payment if the account has the money. If not nothing is stored, as a stored refusal would be final."""
        engine = self.databases["billing"].execution_options(isolation_level="READ COMMITTED")
        with engine.begin() as connection:
            balance = connection.execute(text(BALANCE), {"id": movement.user_id}).scalar()
            if decided := billing.find_decided(connection, [movement]):
                return billing.outcome_of(decided[movement.id]) == Outcome.ACCEPTED
            if balance is None or balance < movement.amount:
                return False
            [moved] = billing.move(connection, [movement])
            return billing.outcome_of(moved) == Outcome.ACCEPTED

    def _store(self, ids: list[UUID]) -> Iterator[Line]:
        """Billing or notifications knows of an order that orders has forgotten: it is stored again, and settled."""
        known = {row.id: row for row in self._rows("billing", PAYMENTS, ids=ids)}
        again = [OrderRequest(one.id, new_id(), None, one.user_id, one.amount, promised=True) for one in known.values()]
        if again and not self.dry_run:
            with self.databases["orders"].connect() as connection:
                orders.store_orders(connection, again, retry_after_s=0)
        for id_ in ids:
            if id_ in known:
                yield Line(True, f"order {id_}: was forgotten: it is stored again, and settled by recovery")
            else:
                yield Line(False, f"letter for order {id_}: neither orders nor billing knows of it: {BY_HAND}")

    def _write(self, ids: list[UUID]) -> Iterator[Line]:
        """Notifications has forgotten a letter: the event of the order's end is published again, or written anew."""
        if not self.dry_run:
            with self.databases["orders"].connect() as connection:
                held = republish.of_rows(connection, [OrderPaid.TYPE, OrderRejected.TYPE], "order_id", ids)
                ended = orders.find(connection, [id_ for id_ in ids if id_ not in held])
                events = {id_: event for id_, order in ended.items() if (event := event_for(order))}
                orders.tell_again(connection, events, lease_s=0)
        yield from (Line(True, f"order {id_}: has no letter: notifications is told again of its end") for id_ in ids)

    def _present(self, service: str, ids: list[UUID]) -> set[UUID]:
        return {row[0] for row in self._rows(service, PRESENT[service], ids=ids)}

    def _rows(self, service: str, query: str, **values: Any) -> list[Any]:
        with self.databases[service].connect() as connection:
            return list(connection.execute(text(query), values))


def open_accounts(connection: Connection, emails: dict[UUID, str]) -> None:
    """Open the accounts of users."""
    billing.open_accounts(connection, list(emails))


def batches(ids: list[UUID]) -> Iterator[list[UUID]]:
    """Return `ids` in parts of a bounded size."""
    yield from (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
