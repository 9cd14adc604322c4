"""A stranger, with the compacted topic and the published contract alone, rebuilds the table of tasks: equal row for row."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from google.protobuf.duration_pb2 import Duration
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.scheduler.bootstrap import open_service
from services.scheduler.domain.task import State
from services.scheduler.relay.settings import RelaySettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.test_payloads import Uploads
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    all_records,
    own_settings,
    relay_settings,
    relaying,
    until_outbox_empty,
)
from tests.integration.scheduler.test_retention import Store, store  # noqa: F401 - the fixture
from tests.support.past import ended_tasks
from tests.support.service import running

PROGRAM = Path(__file__).resolve().parents[3] / "examples" / "consumers" / "rebuild" / "rebuild.py"
# A topic that is compacted at once: a segment lasts no time, and a tombstone need not wait for slow readers.
QUICK = {
    "cleanup.policy": "compact", "segment.ms": "20", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "0",
    "max.message.bytes": str(16 << 20),
}  # fmt: skip
_TABLE = """
SELECT task_id::text, tenant_id, state, queue, kind, priority, attempt, next_event_number - 1 AS last_event_number,
  parent_task_id::text, NULL AS error_reason, create_time, start_time, NULL::timestamptz AS finish_time,
  CASE WHEN state IN (6, 7) THEN available_at END AS next_start_time, CASE WHEN state = 7 THEN wait_signal END AS waiting_signal,
  NULL::bytea AS result, NULL AS error_message
FROM tasks
UNION ALL
SELECT task_id::text, tenant_id, state, queue, kind, priority, attempt, next_event_number - 1, parent_task_id::text, error_reason,
  create_time, start_time, finish_time, NULL, NULL, result, error_message
FROM finished_tasks
"""
_COLUMNS = (
    "task_id", "tenant_id", "state", "queue", "kind", "priority", "attempt", "last_event_number", "parent_task_id",
    "error_reason", "create_time", "start_time", "finish_time", "next_start_time", "waiting_signal", "result", "error_message",
)  # fmt: skip
# A result that is a payload: what is behind this is its reference.
_PAYLOAD = b"\xa2\x06"


def table(store: Store) -> dict[str, dict[str, Any]]:  # noqa: F811
    """The scheduler's own table in the published columns, read past all of its code."""
    payloads = {
        row[0]: {"id": row[0], "size": row[1], "sha256": bytes(row[2]).hex()}
        for row in store.query("SELECT payload_id::text, size_bytes, sha256 FROM payloads")
    }
    found = {}
    for values in store.query(_TABLE):
        row = dict(zip(_COLUMNS, values, strict=True))
        row["state"] = State(row["state"]).name
        result, message = row.pop("result"), row.pop("error_message")
        body = None if result is None else bytes(result)
        inline = body is not None and not body.startswith(_PAYLOAD)
        row["result"] = (len(body), hashlib.sha256(body).hexdigest()) if body is not None and inline else None
        named = [payload for key, payload in payloads.items() if body is not None and not inline and key.encode() in body]
        row["payload"] = tuple(named[0].values()) if named else None
        row["error"] = None if message is None else (len(message.encode()), hashlib.sha256(message.encode()).hexdigest())
        found[row["task_id"]] = row
    return found


def moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def rebuilt(path: Path) -> dict[str, dict[str, Any]]:
    """What the stranger has, in the same form."""
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    found = {}
    for row in database.execute("SELECT * FROM tasks"):
        plain = {name: row[name] for name in _COLUMNS[:10]}
        ended = State[row["state"]].ended
        found[row["task_id"]] = plain | {
            "attempt": row["attempt"] or 0,
            "create_time": moment(row["create_time"]),
            "start_time": moment(row["start_time"]),
            "finish_time": moment(row["update_time"]) if ended else None,
            "next_start_time": moment(row["next_start_time"]),
            "waiting_signal": row["waiting_signal"],
            "result": (row["result_size_bytes"], row["result_sha256"]) if row["result_sha256"] else None,
            "payload": tuple(row[f"result_payload_{part}"] for part in ("payload_id", "size_bytes", "sha256"))
            if row["result_payload_payload_id"]
            else None,
            "error": (row["error_message_size_bytes"], row["error_message_sha256"]) if row["error_message_sha256"] else None,
        }
    database.close()
    return found


async def rebuild(path: Path, relay: RelaySettings) -> dict[str, dict[str, Any]]:
    """Runs the stranger's program until it has what is on the topic now."""
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": relay.kafka_bootstrap_servers, "TOPIC": relay.state_topic}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), str(path), "--once", env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return rebuilt(path)


@asynccontextmanager
async def quick_topic(relay: RelaySettings) -> AsyncIterator[None]:
    """Makes the state topic before the relay does; meanwhile the broker's cleaner looks every moment instead of every 15 s."""
    admin = AIOKafkaAdminClient(bootstrap_servers=relay.kafka_bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(relay.state_topic, 16, 1, topic_configs=QUICK)])
        await admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", {"log.cleaner.backoff.ms": "50"})])
        yield
        await admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", {})])
    finally:
        await admin.close()


async def every_state(scheduler: Scheduler, uploads: Uploads) -> None:
    """Tasks in each state, with results of several sizes, retries and waits."""
    create = scheduler.create
    payload = await uploads.up(b'{"rows": [' + b"1," * 50_000 + b"2]}")
    async with scheduler.worker(credits=1) as worker:

        async def done(result: Any = "done", **fields: Any) -> task_pb2.Task:
            task = await create(**fields)
            await worker.complete(await worker.lease(), result)
            await worker.send(credits=1)
            return task

        for result in ("", None, "x", "ä" * 40_000, {"rows": list(range(2000))}):
            await done(result, labels={"team": "red"}, priority=9)
        large = await create(context_payload=payload.payload_id)
        lease = await worker.lease()
        await worker.send(
            completions=[worker_pb.TaskCompletion(task_id=large.task_id, attempt=1, result_payload=payload.payload_id)], credits=1
        )
        await worker.answer("acks")
        for reason in ("BROKEN", "ODD"):
            await create()
            await worker.fail(await worker.lease(), reason, retryable=False)
            await worker.send(credits=1)
        policy = task_pb2.RetryPolicy(initial_backoff=Duration(seconds=3600), max_backoff=Duration(seconds=3600))
        await create("in its back-off", retry_policy=policy)
        await worker.fail(await worker.lease(), retryable=True)
        await worker.send(credits=1)
        at_once = task_pb2.RetryPolicy(initial_backoff=Duration(), max_backoff=Duration())
        await create("many attempts", retry_policy=at_once, max_attempts=20)
        for _ in range(9):
            await worker.fail(await worker.lease(), retryable=True)
            await worker.send(credits=1)
        await worker.complete(await worker.lease())
        await worker.send(credits=1)
        waiting = await create("waits")
        lease = await worker.lease()
        named = {"task_id": waiting.task_id, "attempt": lease.task.attempt}
        await worker.send(waits=[worker_pb.TaskWait(**named, signal="approval", prompt="Go on?")], credits=1)
        await scheduler.until_event(waiting.task_id, "waiting")
        parent = await create("runs on")
        lease = await worker.lease()
        await create("part", kind=unique("nobody"), parent_task_id=parent.task_id)
        blocked = task_pb2.TaskDependency(task_id=parent.task_id)
        await create("after", dependencies=[blocked])
        await create("later", delay=Duration(seconds=3600))
        await scheduler.cancel((await create("not wanted", kind=unique("nobody"))).task_id)
        await create("waits for a worker", kind=unique("nobody"), queue="analysis")


async def test_the_rebuilt_table_is_equal_row_for_row_also_after_compaction_and_across_a_dropped_partition(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    store: Store,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    relay = relay_settings()
    settings = own_settings(lease_seconds=120.0, object_store_url=tmp_path.as_uri(), retention_seconds=3600.0)
    store.query("UPDATE queues SET retention_days = 1 WHERE queue = 'code'")
    early, late = tmp_path / "early.db", tmp_path / "late.db"
    async with quick_topic(relay), running(open_service, settings, scheduler_tls) as server, relaying(relay):
        scheduler = Scheduler(server)
        await every_state(scheduler, Uploads(scheduler, tmp_path))
        # The scheduler has looked once for what is over, when it started, and does so again in an hour.
        assert store.query("SELECT count(*) FROM task_partitions WHERE retention_days = 1") > [(1,)]
        gone = set(ended_tasks(store.url, 40, unique("past")))
        await until_outbox_empty(settings)
        expected = table(store)
        assert {row["state"] for row in expected.values()} == {state.name for state in State}
        assert gone <= expected.keys()
        assert await rebuild(early, relay) == expected
        # What was kept long enough leaves.
        assert await store.partitions.detach() is not None
        await store.go_on()
        await until_outbox_empty(settings)
        expected = {key: row for key, row in expected.items() if key not in gone}
        assert table(store) == expected
        assert await rebuild(early, relay) == expected
        # What has come is only compacted once something comes after it, in each partition.
        await compacted(scheduler, relay, settings, expected.keys())
        expected = table(store)
        assert await rebuild(early, relay) == expected
        assert await rebuild(late, relay) == expected


async def compacted(scheduler: Scheduler, relay: RelaySettings, settings: Any, keys: Collection[str]) -> None:
    """Returns when the topic has no record of these keys but their last, and no tombstone."""
    async with asyncio.timeout(60):
        while True:
            async with asyncio.TaskGroup() as group:
                for _ in range(40):
                    group.create_task(scheduler.create("rolls a segment", kind=unique("nobody")))
            await until_outbox_empty(settings)
            records = await all_records(relay, relay.state_topic)
            mine = [record.key.decode() for record in records if record.key.decode() in keys]
            if len(mine) == len(keys) and all(record.value is not None for record in records):
                return
