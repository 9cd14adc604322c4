"""What was kept long enough leaves: a tombstone for each task, and when Kafka has it, whatever is left of the task.

The way of a partition that was taken out (services.scheduler.storage.partitions), each step one transaction, so that any process
goes on where another stopped:

1. The tombstones of some blocks of its rows are put into the outbox. Its rows change no more, so blocks are all there is to know.
2. When the relay has deleted those rows of the outbox, which it does after Kafka has acknowledged them, the request ids and long
   logs of these tasks and dead letters are deleted, and the next blocks follow.
3. After the last block it is dropped.

What lies in no range of ids (no partition was made in time, or the task was created long ago) leaves the same way, row by row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import asyncpg
import structlog
from prometheus_client import Counter as Metric

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point
from services.scheduler.domain.ports import Progress
from services.scheduler.domain.shards import lane_of, shards_of
from services.scheduler.domain.task import State
from services.scheduler.domain.wake import CHANNEL, Wake, encode
from services.scheduler.storage.outbox_codec import pack_tombstone
from services.scheduler.storage.partitions import leaf_name

log = structlog.get_logger(__name__)

expired = Metric("guildmesh_expired_tasks", "Tasks that were kept long enough and are gone.")

BLOCKS = 128
"""of 8 KiB, whose tombstones are at Kafka at once: about a thousand tasks, so that what happens now hardly waits behind them."""
ROWS = 1000
"""tasks outside of all ranges whose tombstones are at Kafka at once."""

_LEAVING = """
SELECT name, filenode, next_block, waiting_blocks, waiting_lanes, waiting_positions, counts,
  pg_relation_filenode(name::regclass) AS file,
  pg_relation_size(name::regclass) / current_setting('block_size')::bigint AS blocks
FROM task_partitions WHERE detach_time IS NOT NULL ORDER BY detach_time LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_RESTS = """
SELECT name, retention_days, waiting_lanes, waiting_positions, waiting_tenants, waiting_ids
FROM task_partitions WHERE lower_id IS NULL ORDER BY name FOR UPDATE SKIP LOCKED
"""
_UNACKNOWLEDGED = """
SELECT EXISTS (
  SELECT FROM outbox WHERE (lane, position) IN (SELECT * FROM unnest($1::smallint[], $2::bigint[]))
    AND lane = ANY($1) AND position = ANY($2)
)
"""
_IN_BLOCKS = """
SELECT tenant_id, task_id::text, next_event_number - 1 > log_events, queue, state FROM {leaf}
WHERE ctid >= '({first},0)'::tid AND ctid < '({end},0)'::tid
"""
_EXPIRED = """
SELECT tenant_id, task_id::text FROM {leaf} WHERE finish_time <= statement_timestamp() - $1 * interval '1 day'
ORDER BY finish_time LIMIT $2
"""
_WRITE = """
WITH queued AS (
  INSERT INTO outbox (lane, tenant_id, events, payload)
  SELECT o.lane, '*', o.events, o.payload FROM unnest($1::smallint[], $2::int[], $3::bytea[]) AS o (lane, events, payload)
  RETURNING lane, position
), notified AS MATERIALIZED (SELECT pg_notify($4, $5))
SELECT lane, position FROM queued, notified
"""
_KEEP_LEAF = """
UPDATE task_partitions SET filenode = $2, next_block = $3, waiting_blocks = $4, waiting_lanes = $5, waiting_positions = $6,
  counts = $7 WHERE name = $1
"""
_KEEP_REST = """
UPDATE task_partitions SET waiting_lanes = $2, waiting_positions = $3, waiting_tenants = $4, waiting_ids = $5 WHERE name = $1
"""
_DROP = "SELECT drop_task_partition($1)"
_FORGET_EVENTS = """
DELETE FROM task_events WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
  AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_FORGET_REQUESTS = """
DELETE FROM task_requests WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($2::uuid[], $1::text[])) AND task_id = ANY($2)
"""
_DELETE_ROWS = """
DELETE FROM finished_tasks WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
  AND tenant_id = ANY($1) AND task_id = ANY($2) AND retention_days = $3 RETURNING tenant_id, task_id::text, queue, state
"""
_FORGET_DEAD_LETTERS = """
DELETE FROM dead_letters WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($2::uuid[], $1::text[])) AND task_id = ANY($2)
"""
_COUNT = "INSERT INTO task_count_changes (queues, states, changes) VALUES ($1, $2, $3)"

_Counts = Counter[tuple[str, int]]


class Expiry:
    """Takes what is on its way out one step further. A process that finds another at it leaves it to that one."""

    def __init__(self, database: EngineDriver) -> None:
        self._database = database

    async def expire_partition(self) -> Progress:
        """One step with the partition that was taken out first."""
        dropped = ""
        async with self._database.transaction(by_key=True) as connection:
            row = await connection.fetchrow(_LEAVING)
            if row is None:
                return Progress.NOTHING
            if await _unacknowledged(connection, row):
                return Progress.WAITING
            if await _step(connection, row):
                dropped = row["name"]
                await fail_point("scheduler.drop_partition.before_commit", connection.terminate)
            else:
                await fail_point("scheduler.expire.before_commit", connection.terminate)
        if dropped:
            await fail_point("scheduler.drop_partition.after_commit")
            log.info("partition_dropped", name=dropped)
        else:
            await fail_point("scheduler.expire.after_commit")
        return Progress.MOVED

    async def expire_rest(self) -> Progress:
        """One step with the tasks that lie in no range of ids, of each class."""
        progress = Progress.NOTHING
        async with self._database.transaction(by_key=True) as connection:
            for row in await connection.fetch(_RESTS):
                if await _unacknowledged(connection, row):
                    progress = max(progress, Progress.WAITING)
                elif await _step_of_rest(connection, row):
                    progress = Progress.MOVED
            if progress is Progress.MOVED:
                await fail_point("scheduler.expire_rest.before_commit", connection.terminate)
        if progress is Progress.MOVED:
            await fail_point("scheduler.expire_rest.after_commit")
        return progress


async def _unacknowledged(connection: asyncpg.Connection, row: asyncpg.Record) -> bool:
    if not row["waiting_positions"]:
        return False
    return bool(await connection.fetchval(_UNACKNOWLEDGED, row["waiting_lanes"], row["waiting_positions"]))


async def _step(connection: asyncpg.Connection, row: asyncpg.Record) -> bool:
    """Forgets the tasks whose tombstones are acknowledged and writes the next ones; whether that was all, and it is dropped."""
    name = row["name"]
    done, next_block = row["waiting_blocks"], row["next_block"]
    counts: _Counts = Counter({(queue, state): number for queue, state, number in json.loads(row["counts"])})
    if row["file"] != row["filenode"]:
        # It was rewritten or restored, and its rows may lie elsewhere: all over again. Tombstones may be repeated.
        done, next_block, counts = 0, 0, Counter()
    if done:
        tasks = await _in_blocks(connection, name, next_block, done)
        await _forget(connection, [task[:2] for task in tasks if task[2]], [task[:2] for task in tasks])
        await _forget_dead_letters(connection, [task[:2] for task in tasks if task["state"] == State.FAILED])
        counts.update((queue, state) for *_, queue, state in tasks)
        next_block += done
        expired.inc(len(tasks))
    if next_block >= row["blocks"]:
        await connection.execute(_KEEP_LEAF, name, row["file"], next_block, 0, [], [], "[]")
        await _uncount(connection, counts)
        await connection.execute(_DROP, name)
        return True
    tasks = await _in_blocks(connection, name, next_block, BLOCKS)
    lanes, positions = await _write_tombstones(connection, [task[:2] for task in tasks])
    told = json.dumps([[queue, state, number] for (queue, state), number in counts.items()])
    await connection.execute(_KEEP_LEAF, name, row["file"], next_block, BLOCKS, lanes, positions, told)
    return False


async def _step_of_rest(connection: asyncpg.Connection, row: asyncpg.Record) -> bool:
    """The same for the tasks of a class that lie in no range; whether there was anything to do."""
    done = list(zip(row["waiting_tenants"], map(str, row["waiting_ids"]), strict=True))
    if done:
        await _forget(connection, done, done)
        tenants, ids = zip(*done, strict=True)
        gone = await connection.fetch(_DELETE_ROWS, tenants, ids, row["retention_days"])
        await _forget_dead_letters(connection, [task[:2] for task in gone if task["state"] == State.FAILED])
        await _uncount(connection, Counter((queue, state) for *_, queue, state in gone))
        expired.inc(len(gone))
    tasks = await connection.fetch(_EXPIRED.format(leaf=leaf_name(row["name"])), row["retention_days"], ROWS)
    if not done and not tasks:
        return False
    lanes, positions = await _write_tombstones(connection, [task[:2] for task in tasks])
    await connection.execute(
        _KEEP_REST, row["name"], lanes, positions, [tenant for tenant, _ in tasks], [task_id for _, task_id in tasks]
    )
    return True


async def _in_blocks(connection: asyncpg.Connection, name: str, first: int, blocks: int) -> list[asyncpg.Record]:
    statement = _IN_BLOCKS.format(leaf=leaf_name(name), first=first, end=first + blocks)
    rows: list[asyncpg.Record] = await connection.fetch(statement)
    return rows


async def _write_tombstones(connection: asyncpg.Connection, tasks: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Puts tombstones of tasks (tenant and id) into the outbox; gives the lanes and positions of its new rows."""
    if not tasks:
        return [], []
    payloads: dict[int, list[bytes]] = {}
    wake = Wake()
    for (tenant_id, task_id), shard in zip(tasks, shards_of([task_id for _, task_id in tasks]), strict=True):
        payloads.setdefault(lane_of(shard), []).append(pack_tombstone(shard, task_id, tenant_id))
        wake.shards |= 1 << shard
    rows = await connection.fetch(
        _WRITE,
        list(payloads),
        [len(records) for records in payloads.values()],
        [b"".join(records) for records in payloads.values()],
        CHANNEL,
        encode(wake),
    )
    return [row[0] for row in rows], [row[1] for row in rows]


async def _forget(connection: asyncpg.Connection, long: Sequence[Sequence[str]], tasks: Sequence[Sequence[str]]) -> None:
    """Deletes the events that had no room in their tasks' rows, and the request ids."""
    if long:
        await connection.execute(_FORGET_EVENTS, *(list(column) for column in zip(*long, strict=True)))
    if tasks:
        await connection.execute(_FORGET_REQUESTS, *(list(column) for column in zip(*tasks, strict=True)))


async def _forget_dead_letters(connection: asyncpg.Connection, tasks: Sequence[Sequence[str]]) -> None:
    if tasks:
        await connection.execute(_FORGET_DEAD_LETTERS, *(list(column) for column in zip(*tasks, strict=True)))


async def _uncount(connection: asyncpg.Connection, counts: _Counts) -> None:
    if counts:
        queues, states = zip(*counts, strict=True)
        await connection.execute(_COUNT, queues, states, [-number for number in counts.values()])
