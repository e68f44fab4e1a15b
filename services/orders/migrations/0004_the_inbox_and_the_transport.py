"""The inbox, and the transport by which the outbox is published."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
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
    op.create_table(
        "outbox_transport",
        sa.Column("is_only", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.CheckConstraint("is_only", name="outbox_transport_one_row"),
        sa.PrimaryKeyConstraint("is_only"),
    )
    op.execute("insert into outbox_transport (name) values ('amqp')")


def downgrade() -> None:
    op.drop_table("outbox_transport")
    op.drop_index("inbox_dead", table_name="inbox")
    op.drop_index("inbox_due", table_name="inbox")
    op.drop_table("inbox")
