"""Waiting for rows to end: for requests that would rather wait for the outcome than be told that it is pending.

All that wait share one statement each POLL_S, whichever process ends their rows. What ends in this process is told to
them at once. Waiting needs neither a worker nor a connection to the database.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import eventlet
from eventlet.event import Event as Signal
from nameko.extensions import DependencyProvider
from pydantic import BaseModel

from services.kit.db.database import Database
from services.kit.db.statements import PreparedStatement
from services.kit.errors import TEMPORARY
from services.kit.outage import FIRST_PAUSE_S, Outage
from services.kit.web.entrypoint import Reply

log = logging.getLogger(__name__)

POLL_S = 0.025


class Ends(DependencyProvider):
    """Waits for rows of one table to end: `ends = Ends(models.Order, OrderView, ended=("paid", "rejected"))`.

    `view` is what a row is read as; `ended` are the statuses of rows that are no longer pending.
    """

    def __init__(self, model: Any, view: type[BaseModel], ended: Sequence[str]) -> None:
        table, columns = model.__tablename__, ", ".join(view.model_fields)
        self.table = table
        self.view = view
        self.ended = [str(status) for status in ended]
        self.find = PreparedStatement(
            f"ended_{table}",
            f"""
            select {columns} from {table}
            where id = any({{ids}}) and status in ({", ".join(map(repr, self.ended))})""",
            ids="uuid[]",
        )
        self._waiting: dict[Signal, UUID] = {}
        self._is_polling = False
        self._is_stopped = False

    def get_dependency(self, worker_ctx: Any) -> "Ends":
        return self

    def setup(self) -> None:
        [self.database] = [one for one in self.container.dependencies if isinstance(one, Database)]
        self._outage = Outage(f"waiting for {self.table} of {self.container.service_name}", "its database")

    def wait(self, id_: UUID, seconds: float) -> Any:
        """Return the row, as a view, once it has ended; None if it has not within `seconds`, or if the service stops.

        While the database is away nothing ends. What is no outage is a defect, and is raised.
        """
        if seconds <= 0 or self._is_stopped:
            return None
        done = Signal()
        self._waiting[done] = id_
        try:
            self._poll_from_now_on()
            row = done.wait(seconds)
        finally:
            self._waiting.pop(done, None)
        return None if row is None else self.view.model_validate(row)

    def show(self, view: Any) -> Reply:
        """Return the answer that shows a row; if it is pending, it waits for the end as long as the client prefers."""
        if str(view.status) in self.ended:
            return Reply(200, view, ended=True)
        return Reply(200, view, later=lambda wait_s: self._shown_later(view, wait_s))

    def _shown_later(self, view: Any, wait_s: float) -> Reply:
        ended = self.wait(view.id, wait_s)
        return Reply(200, ended, ended=True) if ended else Reply(200, view)

    def tell(self, rows: Iterable[Any]) -> None:
        """Wake those that wait for one of `rows`, views or rows of the database; pass over rows that are pending."""
        ended = {row.id: row for row in rows if str(row.status) in self.ended}
        for done in [one for one, id_ in self._waiting.items() if id_ in ended]:
            done.send(ended[self._waiting.pop(done)])

    def stop(self) -> None:
        """Let go of all that wait."""
        self._is_stopped = True
        while self._waiting:
            done, _ = self._waiting.popitem()
            done.send(None)

    def kill(self) -> None:
        self.stop()

    def _poll_from_now_on(self) -> None:
        if not self._is_polling:
            self._is_polling = True
            self.container.spawn_managed_thread(self._poll, identifier=f"waiting for {self.table}")

    def _poll(self) -> None:
        """Ask for the rows while somebody waits."""
        try:
            while self._waiting:
                eventlet.sleep(self._look())
        finally:
            self._is_polling = False

    def _look(self) -> float:
        """Wake those whose rows have ended; return after how many seconds to look again."""
        try:
            with self.database.autocommit() as connection:
                rows = self.find.run(connection, ids=list(set(self._waiting.values()))).all()
            self._outage.end()
            self.tell(rows)
        except TEMPORARY as error:
            self._outage.begin(type(error).__name__)
            return FIRST_PAUSE_S
        except Exception as error:
            log.exception("%s cannot be looked for", self.table)
            while self._waiting:
                done, _ = self._waiting.popitem()
                done.send_exception(error)
        return POLL_S
