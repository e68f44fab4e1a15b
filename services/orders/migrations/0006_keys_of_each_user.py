"""An Idempotency-Key belongs to a user: two users may use the same one."""

import sqlalchemy as sa
from alembic import op

from services.kit.db.migrations import build_index

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    build_index(
        "orders_key",
        "orders",
        ["user_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.drop_constraint("orders_idempotency_key_key", "orders")


def downgrade() -> None:
    op.create_unique_constraint("orders_idempotency_key_key", "orders", ["idempotency_key"])
    op.drop_index("orders_key", table_name="orders")
