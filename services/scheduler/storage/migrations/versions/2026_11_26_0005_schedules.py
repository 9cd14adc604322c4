"""Schedules, which create tasks at the times of a cron expression.

A schedule is one row: what was asked for, and how far it has come. `wake_time` says when somebody has to look at it, so that
whoever looks reads what is due and nothing else; a run that waits for the end of earlier ones is found by `buffered_time`.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"

# Names of zones, such as America/New_York, are looked up in the release, not here: a table of them would be another truth.
TABLES = """
CREATE TABLE scheduler.schedules (
  create_time       timestamptz NOT NULL,
  update_time       timestamptz NOT NULL,
  start_time        timestamptz,
  end_time          timestamptz,
  next_time         timestamptz,
  wake_time         timestamptz,
  buffered_time     timestamptz,
  last_run_time     timestamptz,
  version           bigint NOT NULL DEFAULT 1,
  run_count         bigint NOT NULL DEFAULT 0,
  skipped_count     bigint NOT NULL DEFAULT 0,
  catch_up_window   interval NOT NULL,
  jitter            interval NOT NULL,
  uid               uuid NOT NULL,
  last_task_id      uuid,
  overlap_policy    smallint NOT NULL,
  missed_run_policy smallint NOT NULL,
  paused            boolean NOT NULL DEFAULT false,
  tenant_id         text NOT NULL,
  schedule_id       text NOT NULL COLLATE "C",
  cron              text NOT NULL,
  time_zone         text NOT NULL,
  note              text NOT NULL DEFAULT '',
  last_error        text NOT NULL DEFAULT '',
  created_by        text NOT NULL,
  active_task_ids   uuid[] NOT NULL DEFAULT '{}',
  task              bytea NOT NULL,
  context           bytea,
  PRIMARY KEY (tenant_id, schedule_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN scheduler.schedules.next_time IS 'the earliest time of cron that is not dealt with; NULL when there is none';
COMMENT ON COLUMN scheduler.schedules.wake_time IS 'when that run is due: next_time and its jitter';
COMMENT ON COLUMN scheduler.schedules.buffered_time IS 'time of the run that waits for the end of earlier ones';
COMMENT ON COLUMN scheduler.schedules.uid IS 'tells it from a deleted one of the same id';
COMMENT ON COLUMN scheduler.schedules.version IS 'grows with each change that somebody makes';
COMMENT ON COLUMN scheduler.schedules.overlap_policy IS 'OverlapPolicy: 1 allow, 2 skip, 3 buffer one, 4 cancel running';
COMMENT ON COLUMN scheduler.schedules.missed_run_policy IS 'MissedRunPolicy: 1 skip, 2 run last, 3 run all';
COMMENT ON COLUMN scheduler.schedules.active_task_ids IS 'tasks that it has started and that are not known to have ended';
COMMENT ON COLUMN scheduler.schedules.task IS 'guildmesh.scheduler.v1.Task as asked for, without context, serialized';
COMMENT ON COLUMN scheduler.schedules.context IS 'google.protobuf.Struct, serialized';
CREATE INDEX schedules_due ON scheduler.schedules (wake_time) WHERE wake_time IS NOT NULL;
CREATE INDEX schedules_buffered ON scheduler.schedules (buffered_time) WHERE buffered_time IS NOT NULL
"""


def upgrade() -> None:
    """Creates the table."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    enable_tenant_rls(SCHEMA, "schedules")


def downgrade() -> None:
    """Drops it; the tasks that were created go on."""
    op.execute("DROP TABLE scheduler.schedules")
