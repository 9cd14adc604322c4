"""Finished tasks leave: each has a retention class, and lies in a partition by class and time of creation.

How the tables are cut (docs/decisions/0008-retention.md):

* `finished_tasks` is partitioned by class (days that a task is kept after its end, 0 for ever), and each class but 0 by ranges of
  task ids, which are UUIDv7 and so ranges of time. A read by id looks at one partition a class.
* A class has a partition for whatever lies outside of its ranges (`…_rest`), so that no task fails to end because nobody has made
  the next partition in time. What is in it leaves row by row.
* `task_partitions` says how far each partition has come on its way out. Partitions are made, taken out and dropped by functions
  with the rights of the owner, so that the role of the services needs none of them.
"""

from __future__ import annotations

from alembic import op

from services.common.db.migrations import enable_tenant_rls, grant

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "scheduler"
CLASSES = (1, 7, 30, 90)
DEFAULT = 30
PERIODS = {1: "4 hours", 7: "1 day", 30: "5 days", 90: "15 days"}
"""width of a partition: what is kept longer than it must be is at most a fifth."""

COLUMNS = """tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number, log_events, progress,
  parent_task_id, queue, kind, traceparent, error_reason, error_message, spec, context, log, result"""

# The widest first, so that nothing is lost to alignment.
TABLES = """
ALTER TABLE scheduler.queues ADD COLUMN retention_days smallint CHECK (retention_days IN (0, 1, 7, 30, 90));
COMMENT ON COLUMN scheduler.queues.retention_days IS 'days its tasks are kept after their end, 0 for ever, NULL for the default';
ALTER TABLE scheduler.tasks ADD COLUMN retention_days smallint NOT NULL DEFAULT 30;
COMMENT ON COLUMN scheduler.tasks.retention_days IS 'the class that its queue had when the task was created';
CREATE INDEX task_requests_task ON scheduler.task_requests (task_id);
ALTER TABLE scheduler.finished_tasks RENAME TO finished_tasks_0001;
ALTER INDEX scheduler.finished_tasks_pkey RENAME TO finished_tasks_0001_pkey;
ALTER INDEX scheduler.finished_tasks_children RENAME TO finished_tasks_0001_children;
ALTER INDEX scheduler.finished_tasks_not_completed RENAME TO finished_tasks_0001_not_completed;
CREATE TABLE scheduler.finished_tasks (
  create_time       timestamptz NOT NULL,
  finish_time       timestamptz NOT NULL,
  start_time        timestamptz,
  attempt           integer NOT NULL,
  next_event_number integer NOT NULL,
  log_events        integer NOT NULL,
  progress          real NOT NULL,
  state             smallint NOT NULL,
  retention_days    smallint NOT NULL DEFAULT 30,
  priority          smallint NOT NULL DEFAULT 5,
  task_id           uuid NOT NULL,
  parent_task_id    uuid,
  tenant_id         text NOT NULL,
  queue             text NOT NULL,
  kind              text NOT NULL,
  traceparent       text NOT NULL,
  error_reason      text,
  error_message     text,
  spec              bytea NOT NULL,
  context           bytea,
  log               bytea NOT NULL,
  result            bytea,
  PRIMARY KEY (tenant_id, task_id, retention_days)
) PARTITION BY LIST (retention_days);
COMMENT ON COLUMN scheduler.finished_tasks.state IS 'TaskState: 3 completed, 4 failed, 5 cancelled';
COMMENT ON COLUMN scheduler.finished_tasks.result IS 'google.protobuf.Value, serialized';
COMMENT ON COLUMN scheduler.finished_tasks.retention_days IS 'days that the task is kept after its end, 0 for ever';
CREATE INDEX finished_tasks_children ON scheduler.finished_tasks (tenant_id, parent_task_id, task_id)
  WHERE parent_task_id IS NOT NULL;
-- Most tasks complete; whoever looks for those that did not should not have to read the others.
CREATE INDEX finished_tasks_not_completed ON scheduler.finished_tasks (tenant_id, state, task_id) WHERE state <> 3;
-- The tasks of a batch end at one time, so most entries of it share one.
CREATE INDEX finished_tasks_finish_time ON scheduler.finished_tasks (tenant_id, finish_time);
CREATE TABLE scheduler.finished_tasks_0 PARTITION OF scheduler.finished_tasks FOR VALUES IN (0)
  WITH (autovacuum_vacuum_insert_scale_factor = 0.5);

CREATE TABLE scheduler.task_partitions (
  name              text PRIMARY KEY,
  retention_days    smallint NOT NULL,
  lower_time        timestamptz,
  upper_time        timestamptz,
  lower_id          uuid,
  upper_id          uuid,
  detach_time       timestamptz,
  filenode          oid,
  next_block        bigint NOT NULL DEFAULT 0,
  waiting_blocks    integer NOT NULL DEFAULT 0,
  waiting_lanes     smallint[] NOT NULL DEFAULT '{}',
  waiting_positions bigint[] NOT NULL DEFAULT '{}',
  waiting_tenants   text[] NOT NULL DEFAULT '{}',
  waiting_ids       uuid[] NOT NULL DEFAULT '{}',
  counts            jsonb NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50);
COMMENT ON TABLE scheduler.task_partitions IS 'partitions of finished_tasks, and how far each is on its way out';
COMMENT ON COLUMN scheduler.task_partitions.lower_time IS 'its tasks were created from here on; NULL for what is in no range';
COMMENT ON COLUMN scheduler.task_partitions.detach_time IS 'since when its tasks are no longer seen; NULL while they are';
COMMENT ON COLUMN scheduler.task_partitions.filenode IS 'file of its rows: in another one they may have changed places';
COMMENT ON COLUMN scheduler.task_partitions.next_block IS 'for all rows in blocks below it Kafka has acknowledged the tombstones';
COMMENT ON COLUMN scheduler.task_partitions.waiting_blocks IS 'blocks from there on whose tombstones are in the outbox';
COMMENT ON COLUMN scheduler.task_partitions.waiting_positions IS 'rows of the outbox with them, in waiting_lanes';
COMMENT ON COLUMN scheduler.task_partitions.waiting_ids IS 'of a partition without a range: the tasks whose tombstones are there';
COMMENT ON COLUMN scheduler.task_partitions.counts IS 'queue, state, number: the tasks below next_block, still counted'
"""

FUNCTIONS = (
    """
CREATE FUNCTION scheduler.task_id_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
""",
    """
COMMENT ON FUNCTION scheduler.task_id_floor IS 'the smallest UUIDv7 of a time (RFC 9562)'
""",
    """
CREATE FUNCTION scheduler.add_task_partition(days smallint, lower_time timestamptz, upper_time timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
  leaf text := format('finished_tasks_%s_%s', days, to_char(lower_time AT TIME ZONE 'UTC', 'YYYYMMDD"t"HH24MISS'));
  lower_id uuid := task_id_floor(lower_time);
  upper_id uuid := task_id_floor(upper_time);
BEGIN
  EXECUTE format(
    'CREATE TABLE %I (LIKE finished_tasks INCLUDING DEFAULTS) WITH (autovacuum_vacuum_insert_scale_factor = 0.5)', leaf);
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', leaf);
  EXECUTE format('CREATE POLICY engine ON %I TO scheduler_engine USING (true) WITH CHECK (true)', leaf);
  EXECUTE format('GRANT SELECT ON %I TO scheduler_engine', leaf);
  EXECUTE format(
    'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', 'finished_tasks_' || days, leaf, lower_id, upper_id);
  INSERT INTO task_partitions VALUES (leaf, days, lower_time, upper_time, lower_id, upper_id);
  RETURN leaf;
END $$
""",
    """
COMMENT ON FUNCTION scheduler.add_task_partition IS 'makes the partition of the tasks of a class that are created in a time'
""",
    """
CREATE FUNCTION scheduler.detach_task_partition(leaf text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
  days smallint;
BEGIN
  SELECT retention_days INTO STRICT days FROM task_partitions
  WHERE name = leaf AND lower_id IS NOT NULL AND detach_time IS NULL FOR UPDATE;
  EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', 'finished_tasks_' || days, leaf);
  UPDATE task_partitions SET detach_time = clock_timestamp(), filenode = pg_relation_filenode(leaf::regclass) WHERE name = leaf;
END $$
""",
    """
COMMENT ON FUNCTION scheduler.detach_task_partition IS 'takes a partition out: nobody sees its tasks any more, and none is added'
""",
    """
CREATE FUNCTION scheduler.drop_task_partition(leaf text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = scheduler, pg_temp AS $$
DECLARE
  acknowledged bigint;
BEGIN
  SELECT next_block INTO STRICT acknowledged FROM task_partitions
  WHERE name = leaf AND detach_time IS NOT NULL AND waiting_blocks = 0 AND filenode = pg_relation_filenode(leaf::regclass)
  FOR UPDATE;
  IF acknowledged * current_setting('block_size')::bigint < pg_relation_size(leaf::regclass) THEN
    RAISE EXCEPTION 'the tombstones of % are acknowledged up to block % only', leaf, acknowledged;
  END IF;
  EXECUTE format('DROP TABLE %I', leaf);
  DELETE FROM task_partitions WHERE name = leaf;
END $$
""",
    """
COMMENT ON FUNCTION scheduler.drop_task_partition IS 'drops what was taken out, once all of its tombstones are acknowledged'
""",
)
SIGNATURES = (
    "add_task_partition(smallint, timestamptz, timestamptz)",
    "detach_task_partition(text)",
    "drop_task_partition(text)",
    "task_id_floor(timestamptz)",
)

# The priority of an old row is known only to its serialized Task, whose fields come in the order of their numbers: task id,
# tenant, queue, kind and description are before it, each with its length.
PRIORITY = """
CREATE FUNCTION pg_temp.priority_of(spec bytea) RETURNS smallint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  place int := 0;
  size int;
  shift int;
  byte int;
BEGIN
  WHILE place < octet_length(spec) LOOP
    byte := get_byte(spec, place);
    place := place + 1;
    IF byte = 56 THEN
      RETURN get_byte(spec, place);
    ELSIF byte > 50 OR byte & 7 <> 2 THEN
      RETURN 5;
    END IF;
    size := 0;
    shift := 0;
    LOOP
      byte := get_byte(spec, place);
      place := place + 1;
      size := size | ((byte & 127) << shift);
      shift := shift + 7;
      EXIT WHEN byte < 128;
    END LOOP;
    place := place + size;
  END LOOP;
  RETURN 5;
END $$
"""


# From an hour before the first task, whose id is a little older than the time in its row, to two periods ahead.
ADD_PARTITIONS = f"""
SELECT scheduler.add_task_partition({DEFAULT}::smallint, period, period + interval '{PERIODS[DEFAULT]}')
FROM (SELECT least(min(create_time), now()) - interval '1 hour' AS oldest FROM scheduler.finished_tasks_0001) t,
  generate_series(date_bin('{PERIODS[DEFAULT]}', oldest, 'epoch'), now() + 2 * interval '{PERIODS[DEFAULT]}',
    interval '{PERIODS[DEFAULT]}') AS period
"""

FINISHED_0001 = """
CREATE TABLE scheduler.finished_tasks (
  tenant_id         text NOT NULL,
  task_id           uuid NOT NULL,
  create_time       timestamptz NOT NULL,
  start_time        timestamptz,
  finish_time       timestamptz NOT NULL,
  state             smallint NOT NULL,
  attempt           integer NOT NULL,
  next_event_number integer NOT NULL,
  log_events        integer NOT NULL,
  progress          real NOT NULL,
  parent_task_id    uuid,
  queue             text NOT NULL,
  kind              text NOT NULL,
  traceparent       text NOT NULL,
  error_reason      text,
  error_message     text,
  spec              bytea NOT NULL,
  context           bytea,
  log               bytea NOT NULL,
  result            bytea,
  PRIMARY KEY (tenant_id, task_id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
COMMENT ON COLUMN scheduler.finished_tasks.state IS 'TaskState: 3 completed, 4 failed, 5 cancelled';
COMMENT ON COLUMN scheduler.finished_tasks.result IS 'google.protobuf.Value, serialized';
CREATE INDEX finished_tasks_children ON scheduler.finished_tasks (tenant_id, parent_task_id, task_id)
  WHERE parent_task_id IS NOT NULL;
CREATE INDEX finished_tasks_not_completed ON scheduler.finished_tasks (tenant_id, state, task_id) WHERE state <> 3
"""


def upgrade() -> None:
    """Cuts the table anew and moves what is in it; what ends meanwhile waits, about twenty seconds for a million tasks."""
    _execute(TABLES)
    for days in CLASSES:
        rest = f"finished_tasks_{days}_rest"
        op.execute(
            f"CREATE TABLE scheduler.finished_tasks_{days} PARTITION OF scheduler.finished_tasks FOR VALUES IN ({days})"
            " PARTITION BY RANGE (task_id)"
        )
        op.execute(f"CREATE TABLE scheduler.{rest} PARTITION OF scheduler.finished_tasks_{days} DEFAULT")
        # What leaves row by row is found by it; hardly any task ends here.
        op.execute(f"CREATE INDEX {rest}_expired ON scheduler.{rest} (finish_time)")
        enable_tenant_rls(SCHEMA, rest)
        op.execute(f"INSERT INTO scheduler.task_partitions (name, retention_days) VALUES ('{rest}', {days})")
    enable_tenant_rls(SCHEMA, "finished_tasks_0")
    for function in FUNCTIONS:
        op.execute(function)
    for signature in SIGNATURES:
        op.execute(f"REVOKE ALL ON FUNCTION scheduler.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION scheduler.{signature} TO scheduler_engine")
    grant(SCHEMA, "task_partitions", "engine", "SELECT, INSERT, UPDATE, DELETE")
    # Not even its owner sees a row of a table whose row security is forced.
    op.execute("ALTER TABLE scheduler.finished_tasks_0001 NO FORCE ROW LEVEL SECURITY")
    op.execute(ADD_PARTITIONS)
    op.execute(PRIORITY)
    op.execute(
        f"INSERT INTO scheduler.finished_tasks ({COLUMNS}, priority, retention_days)"
        f" SELECT {COLUMNS}, pg_temp.priority_of(spec), {DEFAULT} FROM scheduler.finished_tasks_0001"
    )
    op.execute("DROP TABLE scheduler.finished_tasks_0001")
    enable_tenant_rls(SCHEMA, "finished_tasks")
    op.execute("DROP FUNCTION pg_temp.priority_of")


def downgrade() -> None:
    """Puts all tasks that are still seen into one table again; what was on its way out is dropped."""
    op.execute("ALTER TABLE scheduler.finished_tasks NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE scheduler.finished_tasks RENAME TO finished_tasks_0002")
    for name in ("pkey", "children", "not_completed"):
        op.execute(f"ALTER INDEX scheduler.finished_tasks_{name} RENAME TO finished_tasks_0002_{name}")
    _execute(FINISHED_0001)
    op.execute(f"INSERT INTO scheduler.finished_tasks ({COLUMNS}) SELECT {COLUMNS} FROM scheduler.finished_tasks_0002")
    op.execute("DROP TABLE scheduler.finished_tasks_0002")
    op.execute(
        """
        DO $$ DECLARE leaf text; BEGIN
          FOR leaf IN SELECT name FROM scheduler.task_partitions WHERE detach_time IS NOT NULL LOOP
            EXECUTE format('DROP TABLE scheduler.%I', leaf);
          END LOOP;
        END $$
        """
    )
    enable_tenant_rls(SCHEMA, "finished_tasks")
    for signature in SIGNATURES:
        op.execute(f"DROP FUNCTION scheduler.{signature}")
    op.execute("DROP TABLE scheduler.task_partitions")
    op.execute("DROP INDEX scheduler.task_requests_task")
    op.execute("ALTER TABLE scheduler.tasks DROP COLUMN retention_days")
    op.execute("ALTER TABLE scheduler.queues DROP COLUMN retention_days")


def _execute(statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            op.execute(statement)
