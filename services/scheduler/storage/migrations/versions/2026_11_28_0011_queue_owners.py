"""A change of queues is told once, by the owner: a tenant's change makes nobody forget the queues of the others.

The triggers tell it, so a change by hand is heard as one through the service is.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TELL = """
CREATE OR REPLACE FUNCTION scheduler.tell_queues_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM pg_notify('guildmesh_dispatch', '@' || tenant_id) FROM (SELECT DISTINCT tenant_id FROM now_there) owners;
  ELSIF TG_OP = 'DELETE' THEN
    PERFORM pg_notify('guildmesh_dispatch', '@' || tenant_id) FROM (SELECT DISTINCT tenant_id FROM was_there) owners;
  ELSE
    PERFORM pg_notify('guildmesh_dispatch', '@' || tenant_id)
    FROM (SELECT tenant_id FROM was_there UNION SELECT tenant_id FROM now_there) owners;
  END IF;
  RETURN NULL;
END $$
"""
TELL_ALL = """
CREATE OR REPLACE FUNCTION scheduler.tell_queues_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('guildmesh_dispatch', '');
  RETURN NULL;
END $$
"""
ROWS = {
    "INSERT": "NEW TABLE AS now_there",
    "UPDATE": "OLD TABLE AS was_there NEW TABLE AS now_there",
    "DELETE": "OLD TABLE AS was_there",
}
TABLES = {"queues": ("INSERT", "UPDATE", "DELETE"), "decided_queues": ("INSERT", "DELETE")}


def upgrade() -> None:
    """Makes the triggers say whose queues they are; one that sees the rows is for one kind of statement."""
    op.execute(TELL)
    for table, changes in TABLES.items():
        op.execute(f"DROP TRIGGER tell_queues_changed ON scheduler.{table}")
        for change in changes:
            op.execute(
                f"CREATE TRIGGER tell_queues_{change.lower()} AFTER {change} ON scheduler.{table}"
                f" REFERENCING {ROWS[change]} FOR EACH STATEMENT EXECUTE FUNCTION scheduler.tell_queues_changed()"
            )


def downgrade() -> None:
    """Has them tell everyone of everything."""
    for table, changes in TABLES.items():
        for change in changes:
            op.execute(f"DROP TRIGGER tell_queues_{change.lower()} ON scheduler.{table}")
        op.execute(
            f"CREATE TRIGGER tell_queues_changed AFTER {' OR '.join(changes)} ON scheduler.{table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION scheduler.tell_queues_changed()"
        )
    op.execute(TELL_ALL)
