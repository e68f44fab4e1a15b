"""The migrations of the shop's databases: each service keeps its own in a folder beside its models."""

from importlib import import_module
from pathlib import Path

from sqlalchemy.exc import OperationalError

from services.kit.db import migrations
from services.kit.db.commits import InCommitOrder, forget_other_histories
from services.kit.db.connecting import why_away
from services.kit.outbox.handover import hand_over
from services.kit.outbox.table import OutboxRow
from services.ops.errors import CommandError
from services.shop import Style, services_with, tables

SERVICES_FOLDER = Path(__file__).parents[1]


def upgrade(service: str, url: str, style: Style | None = None) -> int:
    """Bring the database of `service` to the newest version, and hand its outbox over to the transport of `style`.

    What was restored from the dump of another server gets its place in the order of commits (`kit/db/commits.py`).
    Return how many events are due again, because another transport had published them; see `kit/outbox/handover.py`.
    Raise CommandError if the database does not answer.
    """
    try:
        migrations.upgrade(service, url, *of(service))
    except OperationalError as error:
        if getattr(error.orig, "pgcode", None):
            raise
        raise CommandError(f"{service}: the database does not answer ({why_away(error)})") from None
    for table in tables(service, InCommitOrder):
        forget_other_histories(url, table)
    if style is None or service not in services_with(OutboxRow):
        return 0
    return hand_over(url, style.transport)


def of(service: str) -> tuple[Path, object]:
    """Return the folder with the migrations of a service, and the metadata of its tables."""
    metadata = import_module(f"services.{service}.models").Base.metadata
    return SERVICES_FOLDER / service / "migrations", metadata
