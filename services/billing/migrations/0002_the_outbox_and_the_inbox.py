"""The outbox with its transport, the inbox, and the payments that wait for their accounts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


WAITING = sa.text("published_at is null")


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), server_default=sa.text("'-infinity'"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_id"),
    )
    op.create_index("outbox_waiting", "outbox", ["claimed_until", "id"], unique=False, postgresql_where=WAITING)
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
    op.create_table(
        "waiting_payments",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("order_id"),
    )
    op.create_index("waiting_payments_due", "waiting_payments", ["retry_at"], unique=False)
    op.create_index("waiting_payments_of_user", "waiting_payments", ["user_id"], unique=False)


def downgrade() -> None:
    op.drop_index("waiting_payments_of_user", table_name="waiting_payments")
    op.drop_index("waiting_payments_due", table_name="waiting_payments")
    op.drop_table("waiting_payments")
    op.drop_table("outbox_transport")
    op.drop_index("inbox_dead", table_name="inbox")
    op.drop_index("inbox_due", table_name="inbox")
    op.drop_table("inbox")
    op.drop_index("outbox_waiting", table_name="outbox", postgresql_where=WAITING)
    op.drop_table("outbox")
