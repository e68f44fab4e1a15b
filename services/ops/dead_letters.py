"""Dead letters: the events that could not be handled, kept with the reason, to be replayed or dropped.

They are rows of the inboxes (see `kit/inbox/provider.py`), so the commands need the databases only, and read them a few
rows at a time. The running service handles what is replayed, from its inbox.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, bindparam, create_engine, event, text

from services.kit.db.connecting import with_driver
from services.kit.inbox.table import InboxRow
from services.shop import services_with

TIMEOUT_S = 10
BATCH = 200
DEADLINE = f"set local statement_timeout = {TIMEOUT_S * 1000}"

COLUMNS = "id, handler, key, body, content_type, content_encoding, headers, attempts, reason, received_at, failed_at"
#: The next of the chosen dead letters; all are chosen if no ids are given. Each is read once, whatever becomes of it.
CHOSEN = f"""
    select id from inbox where next_attempt_at is null and id > :after and id <= :newest and (:all or id = any(:ids))
    order by id limit {BATCH} for update"""
STATEMENTS = {
    "look": f"""with chosen as ({CHOSEN.removesuffix(" for update")})
                select {COLUMNS} from inbox join chosen using (id) order by id""",
    "replay": f"""with chosen as ({CHOSEN}), done as (
                      update inbox set attempts = 0, next_attempt_at = now() where id in (select id from chosen)
                      returning {COLUMNS})
                  select * from done order by id""",
    "drop": f"""with chosen as ({CHOSEN}), done as (
                    delete from inbox where id in (select id from chosen) returning {COLUMNS})
                select * from done order by id""",
}
NEWEST = "select coalesce(max(id), 0) from inbox where next_attempt_at is null"
KNOWN = text("select id from inbox where next_attempt_at is null and id in :ids").bindparams(
    bindparam("ids", expanding=True)
)


@dataclass(frozen=True)
class DeadLetter:
    """An event that could not be handled, in the inbox of a service."""

    service: str
    row: Row[Any]

    @property
    def id(self) -> str:
        return id_of(self.service, self.row.id)

    def line(self) -> str:
        """Return the dead letter on one line."""
        row = self.row
        return (
            f"{self.id}  {row.failed_at.isoformat(timespec='seconds')}  {self.service}.{row.handler}  "
            f"{' '.join(row.reason.split())} ({row.attempts} failed attempts)"
        )

    def details(self) -> str:
        """Return the dead letter in full."""
        row = self.row._asdict()
        about = {**row, "id": self.id, "handler": f"{self.service}.{row['handler']}"}
        body = bytes(about.pop("body"))
        return json.dumps(about, indent=2, default=str) + "\n" + readable(body)


class DeadLetters:
    """The dead letters of all services that have an inbox; `urls` are those of their databases."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.engines: dict[str, Engine] = {
            service: create_engine(
                with_driver(urls[service]),
                connect_args={"connect_timeout": TIMEOUT_S},
            )
            for service in services_with(InboxRow)
        }
        for engine in self.engines.values():  # not when it connects: a pooler would refuse that
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(DEADLINE))

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return those of `ids` that belong to no dead letter."""
        found = set()
        for service, engine in self.engines.items():
            with engine.connect() as connection:
                known = connection.execute(KNOWN, {"ids": numbers(service, ids)}).scalars()
                found |= {id_of(service, number) for number in known}
        return [id_ for id_ in dict.fromkeys(ids) if id_ not in found]

    def look(self, ids: Sequence[str]) -> Iterator[DeadLetter]:
        """Return the dead letters, oldest first; all of them if there are no `ids`."""
        return self._each("look", ids)

    def replay(self, ids: Sequence[str]) -> Iterator[DeadLetter]:
        """Have the dead letters handled again, with all their attempts; yield each when that is committed."""
        return self._each("replay", ids)

    def drop(self, ids: Sequence[str]) -> Iterator[DeadLetter]:
        """Remove the dead letters; yield each when that is committed."""
        return self._each("drop", ids)

    def _each(self, what: str, ids: Sequence[str]) -> Iterator[DeadLetter]:
        for service, engine in self.engines.items():
            with engine.connect() as connection:
                after, newest = 0, connection.execute(text(NEWEST)).scalar_one()
                while rows := connection.execute(
                    text(STATEMENTS[what]),
                    {"after": after, "newest": newest, "all": not ids, "ids": numbers(service, ids)},
                ).all():
                    connection.commit()
                    yield from (DeadLetter(service, row) for row in rows)
                    after = rows[-1].id


def id_of(service: str, number: int) -> str:
    """Return the id of a dead letter, as commands print and take it."""
    return f"{service}-{number}"


def numbers(service: str, ids: Sequence[str]) -> list[int]:
    """Return the numbers in those of `ids` that belong to this service."""
    found = [id_.removeprefix(f"{service}-") for id_ in ids if id_.startswith(f"{service}-")]
    return [int(one) for one in found if one.isascii() and one.isdigit() and int(one) < 2**63]


def readable(body: bytes) -> str:
    """Return the body as text, or in base64 if it is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "base64: " + base64.b64encode(body).decode()
