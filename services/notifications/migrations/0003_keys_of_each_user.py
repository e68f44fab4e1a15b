"""An Idempotency-Key belongs to a user: two users may use the same one."""

import sqlalchemy as sa
from alembic import op

from services.kit.db.migrations import build_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    build_index(
        "letters_key",
        "letters",
        ["user_id", "idempotency_key"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.drop_constraint("letters_idempotency_key_key", "letters")


def downgrade() -> None:
    op.create_unique_constraint("letters_idempotency_key_key", "letters", ["idempotency_key"])
    op.drop_index("letters_key", table_name="letters")
