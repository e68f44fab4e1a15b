"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("balance >= 0", name="accounts_balance_not_negative"),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("debit", sa.String(), nullable=False),
        sa.Column("credit", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("balance", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(outcome = 'accepted') = (balance is not null)", name="operations_balance"),
        sa.CheckConstraint("kind in ('deposit', 'withdrawal', 'payment')", name="operations_kind"),
        sa.CheckConstraint(
            "outcome in ('accepted', 'insufficient_funds', 'account_not_found')", name="operations_outcome"
        ),
        sa.CheckConstraint("amount > 0", name="operations_amount_positive"),
        sa.CheckConstraint("debit <> credit and user_id::text in (debit, credit)", name="operations_ledger_accounts"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index(
        "operations_statement",
        "operations",
        ["user_id", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("outcome = 'accepted'"),
    )


def downgrade() -> None:
    op.drop_index("operations_statement", table_name="operations", postgresql_where=sa.text("outcome = 'accepted'"))
    op.drop_table("operations")
    op.drop_table("accounts")
