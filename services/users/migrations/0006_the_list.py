"""What the list of users is read by."""

from alembic import op

from services.kit.db.migrations import build_index

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    build_index("users_newest", "users", ["created_at", "id"])


def downgrade() -> None:
    op.drop_index("users_newest", table_name="users")
