"""A primary with a synchronous standby: two private PostgreSQL servers, and the way from one to the other.

A commit is acknowledged when both have it on disk. So the primary may be lost at any moment, and the standby, once it
is promoted, has everything that a client was told.

What must never happen is that both take writes. Before the standby is promoted, the primary is *fenced*: a file in its
folder says so, and no process of it is left. A fenced server starts as nothing but a new copy of the other one. What a
crash leaves: before the file, the primary; after it, a standby that is promoted when the pair starts again.
"""

import shutil
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import psycopg2

from services.local.net import HOST, wait_for
from services.local.postgres import FENCED, FOLLOWS, STANDBY, SYNCHRONOUS, USER, Postgres
from services.local.server import CannotStart

NAME = "standby"  # by which the primary knows whom its commits wait for
PROMOTED_S = 30.0
STREAMING_S = 30.0
CONNECT = "connect_timeout=5"  # seconds
KEPT_WAL = "256MB"  # how far a standby may be behind, and still follow


class PairedPostgres(Postgres):
    """One of a Pair. It starts as the primary or as a standby, whichever it is."""

    def __init__(self, folder: Path, pair: "Pair") -> None:
        super().__init__(folder, settings={"wal_keep_size": KEPT_WAL, **pair.settings})
        del self.settings[SYNCHRONOUS]  # which changes while it runs
        self.pair = pair

    @property
    def is_fenced(self) -> bool:
        return (self.folder / FENCED).exists()

    @property
    def is_standby(self) -> bool:
        """Whether its data are those of a standby; PostgreSQL removes the file when it is promoted."""
        return (self.data / STANDBY).exists()

    @property
    def is_new(self) -> bool:
        return not self.data.exists()

    def start(self) -> None:
        """Start it, in a thread that lives as long as it shall. A standby has started when commits wait for it."""
        with self.pair.changing:
            if self is self.pair.primary:
                super().start()
                return
            if self.is_fenced or self.is_new:
                self._copy(self.pair.primary)
            super().start()
            try:
                self.pair.make_synchronous()
            except TimeoutError:  # it is too far behind
                self.fence()
                raise
            except psycopg2.Error as error:  # it has died, or stands still: commits would not wait for this one
                self.stop()
                raise CannotStart(f"{self.title} in {self.folder}: the primary does not answer: {error}") from None

    def fence(self) -> None:
        """Have it never start again with the data that it has; when this returns, no process of it is left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FENCED).touch()
        self.kill()

    def address(self, *more: str) -> str:
        """Return how libpq reaches it."""
        return " ".join([f"host={HOST} port={self.port} user={USER}", *more])

    def query(self, statement: str) -> list[Any]:
        """Execute a statement by itself, and return its rows."""
        with closing(psycopg2.connect(self.address("dbname=postgres", CONNECT))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def _copy(self, primary: "PairedPostgres") -> None:
        """Put a copy of the primary in the place of what is here."""
        shutil.rmtree(self.data, ignore_errors=True)
        source = primary.address(CONNECT)
        self.make_data("pg_basebackup", "--checkpoint=fast", "--no-sync", "-d", source, files=[STANDBY])
        (self.folder / FENCED).unlink(missing_ok=True)


class Pair:
    """Two servers, of which one is the `primary`. Their folders are `folder` and the same with `-2` at its end."""

    def __init__(self, folder: Path, synchronous: bool = True, settings: dict[str, str] | None = None) -> None:
        self.changing = threading.RLock()  # who starts or ends one of the two holds it
        self.settings = settings or {}
        self.synchronous = synchronous
        self.nodes = [PairedPostgres(folder, self), PairedPostgres(folder.with_name(f"{folder.name}-2"), self)]
        for node, other in zip(self.nodes, reversed(self.nodes), strict=True):
            node.settings[FOLLOWS] = other.address(f"application_name={NAME}")
        [self.primary, self.standby] = sorted(self.nodes, key=_rank)

    @property
    def port(self) -> int:
        """The port of the primary."""
        return self.primary.port

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database: of whichever of the two takes writes."""
        hosts = "&".join(f"host={HOST}:{node.port}" for node in self.nodes)
        return f"postgresql+psycopg2://{USER}@/{database}?{hosts}&target_session_attrs=read-write"

    def ensure_databases(self, names: Iterable[str]) -> None:
        self.primary.ensure_databases(names)

    def start(self) -> None:
        """Start both. A primary that was fenced, before its standby could be promoted, is not the primary any more.

        Raises what either start raises, and then leaves neither.
        """
        try:
            self.primary.start()
            if self.primary.is_standby:
                self._promote(self.primary)
            self.standby.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both, the primary first, so that the standby has all that it has."""
        self.primary.stop()
        self.standby.stop()

    def promote(self) -> None:
        """Make the standby the primary: fence the other one, then promote.

        The new primary takes writes alone, until the other server has been started, as its standby. Raises CannotStart,
        and changes nothing, if there is no standby that has it all.
        """
        with self.changing:
            if not self.standby.running or self.standby.is_fenced or not self.standby.is_standby:
                raise CannotStart("there is no standby that could be promoted; is it still being copied?")
            self.primary.fence()
            self._promote(self.standby)
            self.primary, self.standby = self.standby, self.primary

    def _promote(self, node: PairedPostgres) -> None:
        self.set_synchronous(node, False)  # else its first commit would wait for a standby that is not there yet
        node.query(f"select pg_promote(true, {int(PROMOTED_S)})")
        wait_for(lambda: node.query("select pg_is_in_recovery()") == [(False,)], PROMOTED_S, "the new primary")

    def make_synchronous(self) -> None:
        """Wait until the standby follows, and have commits wait for it from now on, if they shall."""
        wait_for(self.is_streaming, STREAMING_S, "the standby to follow the primary")
        if self.synchronous:
            self.set_synchronous(self.primary, True)

    def set_synchronous(self, node: PairedPostgres, is_synchronous: bool) -> None:
        """Have the commits of a node wait for a standby, or not. What it says outlives a restart."""
        node.query(f"alter system set {SYNCHRONOUS} = '{NAME if is_synchronous else ''}'")
        node.query("select pg_reload_conf()")

    def is_streaming(self) -> bool:
        """Return whether the standby follows the primary."""
        state = f"select 1 from pg_stat_replication where application_name = '{NAME}' and state = 'streaming'"
        return self.primary.running and bool(self.primary.query(state))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _rank(node: PairedPostgres) -> int:
    """Return how far a node is from being the primary; of two new ones, the first is."""
    return 3 if node.is_fenced else 2 if node.is_new else 1 if node.is_standby else 0
