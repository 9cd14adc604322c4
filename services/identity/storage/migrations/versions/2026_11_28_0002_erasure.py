"""Erasure of users: when it was asked for, and when the scheduler had destroyed their keys."""

from alembic import op

revision = "identity_0002"
down_revision = "identity_0001"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE identity.users ADD COLUMN erase_time timestamptz, ADD COLUMN keys_destroy_time timestamptz;
COMMENT ON COLUMN identity.users.erase_time IS 'the row stays, so that nobody else gets the name';
COMMENT ON COLUMN identity.users.keys_destroy_time IS 'NULL with an erase_time: the scheduler is still to be told';
CREATE INDEX users_to_erase ON identity.users (erase_time) WHERE erase_time IS NOT NULL AND keys_destroy_time IS NULL
"""


def upgrade() -> None:
    """Adds the columns."""
    for statement in CHANGES.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Takes them away; who was erased stays so: inactive, without a password."""
    op.execute("ALTER TABLE identity.users DROP COLUMN erase_time, DROP COLUMN keys_destroy_time")
