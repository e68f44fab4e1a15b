"""The trace with which what a crash left is gone on with."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outbox", sa.Column("traceparent", sa.String(), nullable=True))
    op.add_column("users", sa.Column("traceparent", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("users", "traceparent")
    op.drop_column("outbox", "traceparent")
