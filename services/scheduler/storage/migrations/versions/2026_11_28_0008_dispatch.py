"""Dispatch with limits and shares: which tasks one replica decides on, who that is, and what it reads.

`tasks.queue_tenant` says that a task is decided on, and by which row of `queues`; NULL says that replicas race for it, as most
do. What is decided on lies in indexes of its own, and the index of what is raced for leaves it out: neither walks over the
other's backlog, and a task without limits is in no index more than before (docs/decisions/0013-dispatch-owner.md).
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import grant

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

TABLES = """
ALTER TABLE scheduler.tasks ADD COLUMN concurrency_key text, ADD COLUMN queue_tenant text;
COMMENT ON COLUMN scheduler.tasks.concurrency_key IS 'tasks with the same one count together for max_running_per_key';
COMMENT ON COLUMN scheduler.tasks.queue_tenant IS 'tenant of its queue (* for all) when one replica decides on it, else NULL';
DROP INDEX scheduler.tasks_pending;
CREATE INDEX tasks_pending ON scheduler.tasks (kind, queue_priority DESC, priority DESC, position)
  WHERE state = 1 AND queue_tenant IS NULL;
-- What waits of a tenant in a queue, in its order; what waits of a key; what runs.
CREATE INDEX tasks_decided ON scheduler.tasks (queue_tenant, queue, tenant_id, kind, (-priority), position)
  WHERE state = 1 AND queue_tenant IS NOT NULL;
CREATE INDEX tasks_decided_key ON scheduler.tasks (queue_tenant, queue, concurrency_key, (-priority), position)
  WHERE state = 1 AND queue_tenant IS NOT NULL AND concurrency_key IS NOT NULL;
CREATE INDEX tasks_decided_running ON scheduler.tasks (queue_tenant, queue) WHERE state = 2 AND queue_tenant IS NOT NULL;

CREATE TABLE scheduler.decided_queues (
  tenant_id text NOT NULL,
  queue     text NOT NULL,
  settled   boolean NOT NULL DEFAULT false,
  PRIMARY KEY (tenant_id, queue)
);
COMMENT ON TABLE scheduler.decided_queues IS 'queues of which one replica decides what starts';
COMMENT ON COLUMN scheduler.decided_queues.settled IS 'whether no task of it can start in another way any more';
CREATE INDEX queues_limited ON scheduler.queues (queue, tenant_id)
  WHERE paused OR max_running IS NOT NULL OR max_running_per_key IS NOT NULL OR rate_per_second IS NOT NULL;
CREATE INDEX queues_name ON scheduler.queues (queue, tenant_id);

-- Two tables: a renewal must not touch the row that every start locks.
CREATE TABLE scheduler.dispatch_owners (
  scope         smallint PRIMARY KEY,
  owner         text,
  address       text,
  lease_expires timestamptz
) WITH (fillfactor = 50);
INSERT INTO scheduler.dispatch_owners (scope) VALUES (0);
COMMENT ON TABLE scheduler.dispatch_owners IS 'the replica that decides; scope 0 is all queues';
CREATE TABLE scheduler.dispatch_epochs (
  scope smallint PRIMARY KEY,
  epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO scheduler.dispatch_epochs (scope) VALUES (0);
COMMENT ON TABLE scheduler.dispatch_epochs IS 'grows with each take-over; a start is refused unless its epoch is the newest'
"""

NOTIFY = (
    """
CREATE FUNCTION scheduler.tell_queues_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('guildmesh_dispatch', '');
  RETURN NULL;
END $$
""",
    """
CREATE TRIGGER tell_queues_changed AFTER INSERT OR UPDATE OR DELETE ON scheduler.queues
FOR EACH STATEMENT EXECUTE FUNCTION scheduler.tell_queues_changed()
""",
    """
CREATE TRIGGER tell_queues_changed AFTER INSERT OR DELETE ON scheduler.decided_queues
FOR EACH STATEMENT EXECUTE FUNCTION scheduler.tell_queues_changed()
""",
)


def upgrade() -> None:
    """Adds the columns, the tables and the indexes."""
    for statement in (*TABLES.split(";\n"), *NOTIFY):
        if statement.strip():
            op.execute(statement)
    for table in ("decided_queues", "dispatch_owners", "dispatch_epochs"):
        grant(SCHEMA, table, "engine", "SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    """Takes them away: replicas race for every task."""
    op.execute("DROP TRIGGER tell_queues_changed ON scheduler.queues")
    op.execute("DROP TABLE scheduler.dispatch_epochs, scheduler.dispatch_owners, scheduler.decided_queues")
    op.execute("DROP FUNCTION scheduler.tell_queues_changed()")
    op.execute("DROP INDEX scheduler.queues_limited, scheduler.queues_name, scheduler.tasks_pending, scheduler.tasks_decided")
    op.execute("DROP INDEX scheduler.tasks_decided_key, scheduler.tasks_decided_running")
    op.execute("ALTER TABLE scheduler.tasks DROP COLUMN queue_tenant, DROP COLUMN concurrency_key")
    op.execute(
        "CREATE INDEX tasks_pending ON scheduler.tasks (kind, queue_priority DESC, priority DESC, position) WHERE state = 1"
    )
