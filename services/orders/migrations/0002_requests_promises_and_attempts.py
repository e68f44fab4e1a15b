"""What an order was asked for by, whether it was promised, and how its recovery goes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("request_id", sa.Uuid(), nullable=True))  # null: an order of before
    op.add_column("orders", sa.Column("promised", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("orders", sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("orders", sa.Column("trouble", sa.String(), nullable=True))


def downgrade() -> None:
    for column in ("trouble", "attempts", "promised", "request_id"):
        op.drop_column("orders", column)
