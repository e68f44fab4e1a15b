"""The waiting events of the outbox in the order in which relays take them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WAITING = sa.text("published_at is null")


def upgrade() -> None:
    op.drop_index("outbox_waiting", table_name="outbox", postgresql_where=WAITING)
    op.create_index("outbox_waiting", "outbox", ["claimed_until", "id"], unique=False, postgresql_where=WAITING)


def downgrade() -> None:
    op.drop_index("outbox_waiting", table_name="outbox", postgresql_where=WAITING)
    op.create_index("outbox_waiting", "outbox", ["id"], unique=False, postgresql_where=WAITING)
