"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "contacts",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_table(
        "letters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(kind = 'message') = (event_id is null)", name="letters_event"),
        sa.CheckConstraint("kind in ('order_paid', 'order_rejected', 'message')", name="letters_kind"),
        sa.CheckConstraint("(event_id is null) = (order_id is null)", name="letters_order"),
        sa.CheckConstraint("user_id is not null or email is not null", name="letters_addressee"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_id"),
        sa.UniqueConstraint("idempotency_key"),
        sa.UniqueConstraint("order_id"),
    )
    op.create_index("letters_newest", "letters", ["created_at", "id"], unique=False)
    op.create_index("letters_newest_of_user", "letters", ["user_id", "created_at", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("letters_newest_of_user", table_name="letters")
    op.drop_index("letters_newest", table_name="letters")
    op.drop_table("letters")
    op.drop_table("contacts")
