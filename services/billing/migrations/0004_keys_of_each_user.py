"""An Idempotency-Key belongs to a user: two users may use the same one."""

import sqlalchemy as sa
from alembic import op

from services.kit.db.migrations import build_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    build_index(
        "operations_key",
        "operations",
        ["user_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.drop_constraint("operations_idempotency_key_key", "operations")


def downgrade() -> None:
    op.create_unique_constraint("operations_idempotency_key_key", "operations", ["idempotency_key"])
    op.drop_index("operations_key", table_name="operations")
