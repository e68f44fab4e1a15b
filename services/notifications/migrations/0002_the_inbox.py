"""The inbox: events that failed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("handler", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.String(), nullable=True),
        sa.Column("content_encoding", sa.String(), nullable=True),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("handler", "key"),
    )
    op.create_index(
        "inbox_due", "inbox", ["next_attempt_at"], unique=False, postgresql_where=sa.text("next_attempt_at is not null")
    )
    op.create_index("inbox_dead", "inbox", ["id"], unique=False, postgresql_where=sa.text("next_attempt_at is null"))


def downgrade() -> None:
    op.drop_index("inbox_dead", table_name="inbox")
    op.drop_index("inbox_due", table_name="inbox")
    op.drop_table("inbox")
