"""The fence of what was decided: one lock that starts share, and that whoever changes what they were decided by has alone.

Rows that each start locked FOR SHARE were written for it each time, and a stream of such locks can keep a change waiting for as
long as it lasts; the lock manager lets nobody who comes later pass (docs/decisions/0013-dispatch-owner.md). The triggers take
it for changes by hand, too.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE scheduler.dispatch_epochs ADD COLUMN limits_version bigint NOT NULL DEFAULT 0",
    "COMMENT ON COLUMN scheduler.dispatch_epochs.limits_version IS"
    " 'grows with each change of a queue; a start is refused that was decided by an older one'",
    """
CREATE FUNCTION scheduler.fence_starts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Waits for the starts that are under way; none begins until this transaction has ended.
  PERFORM pg_advisory_xact_lock(hashtext('guildmesh.scheduler.dispatch'), 0);
  RETURN NULL;
END $$
""",
    """
CREATE TRIGGER fence_starts BEFORE UPDATE ON scheduler.dispatch_epochs
FOR EACH STATEMENT EXECUTE FUNCTION scheduler.fence_starts()
""",
    # Each statement of a function sees what was committed before it began: so the rows are read as they are once the lock is
    # there.
    """
CREATE FUNCTION scheduler.hold_fence(by_epoch bigint, by_limits bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  newest scheduler.dispatch_epochs;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtext('guildmesh.scheduler.dispatch'), 0);
  SELECT * INTO newest FROM scheduler.dispatch_epochs WHERE scope = 0;
  IF newest.epoch <> by_epoch THEN
    RAISE EXCEPTION 'epoch % is over', by_epoch USING ERRCODE = 'GM001';
  ELSIF newest.limits_version <> by_limits THEN
    RAISE EXCEPTION 'queues have changed since version %', by_limits USING ERRCODE = 'GM002';
  END IF;
END $$
""",
    # Tenants change their own queues, and have no right to the table of epochs.
    """
CREATE FUNCTION scheduler.count_queue_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler AS $$
BEGIN
  UPDATE dispatch_epochs SET limits_version = limits_version + 1 WHERE scope = 0;
  RETURN NULL;
END $$
""",
    """
CREATE TRIGGER count_queue_changes BEFORE INSERT OR UPDATE OR DELETE ON scheduler.queues
FOR EACH STATEMENT EXECUTE FUNCTION scheduler.count_queue_changes()
""",
    # Many entries with the same key cost more the more of them are dead; in order of the positions each comes behind the others.
    "DROP INDEX scheduler.tasks_decided_running",
    "CREATE INDEX tasks_decided_running ON scheduler.tasks (position) WHERE state = 2 AND queue_tenant IS NOT NULL",
)


def upgrade() -> None:
    """Adds the version, the functions and their triggers."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Takes them away."""
    op.execute("DROP INDEX scheduler.tasks_decided_running")
    op.execute(
        "CREATE INDEX tasks_decided_running ON scheduler.tasks (queue_tenant, queue) WHERE state = 2 AND queue_tenant IS NOT NULL"
    )
    op.execute("DROP TRIGGER count_queue_changes ON scheduler.queues")
    op.execute("DROP TRIGGER fence_starts ON scheduler.dispatch_epochs")
    op.execute("DROP FUNCTION scheduler.count_queue_changes, scheduler.hold_fence, scheduler.fence_starts")
    op.execute("ALTER TABLE scheduler.dispatch_epochs DROP COLUMN limits_version")
