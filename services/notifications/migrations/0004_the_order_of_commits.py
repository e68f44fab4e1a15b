"""The order of commits: the transaction of each letter. Those that are there already come first."""

import sqlalchemy as sa
from alembic import op

from services.kit.db.commits import Xid8
from services.kit.db.migrations import build_index, end_sessions

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # a constant is not written into the rows, so this takes no time however many there are
    column = sa.Column("transaction", Xid8(), server_default=sa.text("'0'"), nullable=False)
    op.add_column("letters", column, if_not_exists=True)  # what follows commits it, and can fail
    op.alter_column("letters", "transaction", server_default=sa.text("pg_current_xact_id()"))
    end_sessions("notifications")
    build_index("letters_committed", "letters", ["transaction", "id"])
    build_index("letters_committed_of_user", "letters", ["user_id", "transaction", "id"])


def downgrade() -> None:
    op.drop_index("letters_committed_of_user", table_name="letters")
    op.drop_index("letters_committed", table_name="letters")
    op.drop_column("letters", "transaction")
