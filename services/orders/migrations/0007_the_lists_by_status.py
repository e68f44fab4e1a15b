"""What lists of orders are read by: only the orders that they show, of a user, of a status, of both, or all."""

import sqlalchemy as sa
from alembic import op

from services.kit.db.migrations import build_index

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SHOWN = sa.text("(reason is null or reason <> 'account_not_found' or promised)")
NEW = {
    "orders_shown": ["created_at", "id"],
    "orders_shown_of_user": ["user_id", "created_at", "id"],
    "orders_shown_of_status": ["status", "created_at", "id"],
    "orders_shown_of_user_of_status": ["user_id", "status", "created_at", "id"],
}


def upgrade() -> None:
    for name, columns in NEW.items():
        build_index(name, "orders", columns, postgresql_where=SHOWN)
    # the code of before asks for the same orders, and finds them in orders_shown_of_user
    op.drop_index("orders_newest_of_user", table_name="orders")


def downgrade() -> None:
    build_index("orders_newest_of_user", "orders", ["user_id", "created_at", "id"])
    for name in NEW:
        op.drop_index(name, table_name="orders")
