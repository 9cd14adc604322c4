"""Tasks that ended long ago, as the scheduler would have left them: in their partition, with their events on the way to Kafka."""

from __future__ import annotations

import random
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2

from services.scheduler.domain.events import Created
from services.scheduler.domain.run import Run
from services.scheduler.domain.shards import lane_of, shard_of
from services.scheduler.domain.task import State
from services.scheduler.storage.changelog import event_of
from services.scheduler.storage.event_codec import encode_snapshot
from services.scheduler.storage.event_log import frame
from services.scheduler.storage.outbox_codec import pack

QUEUE = "default"
KIND = "past"
# google.protobuf.Value true.
_RESULT = b"\x20\x01"
_INSERT = """
INSERT INTO scheduler.finished_tasks (tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number,
  log_events, progress, queue, kind, traceparent, spec, log, result, priority, retention_days)
VALUES (%s, %s, %s, %s, %s, %s, 1, 4, %s, 1, %s, %s, '', '', %s, %s, 5, %s)
"""
_DEAD_LETTER = """
INSERT INTO scheduler.dead_letters (tenant_id, task_id, queue, kind, fail_time, reason, attempts, retention_days)
VALUES (%s, %s, %s, %s, %s, 'BROKEN', 1, %s)
"""
_EVENT = "INSERT INTO scheduler.task_events (tenant_id, task_id, number, value) VALUES (%s, %s, %s, %s)"
_OUTBOX = "INSERT INTO scheduler.outbox (lane, tenant_id, events, payload) VALUES (%s, %s, 3, %s)"
_REQUEST = """
INSERT INTO scheduler.task_requests (tenant_id, request_id, task_id, payload_hash, create_time) VALUES (%s, %s, %s, '', now())
"""
_TAKE_NEWEST = """
SELECT scheduler.detach_task_partition(name) FROM scheduler.task_partitions
WHERE retention_days = 7 AND lower_id IS NOT NULL AND detach_time IS NULL ORDER BY upper_time DESC LIMIT 1
"""
_COUNT = "INSERT INTO scheduler.task_count_changes (queues, states, changes) VALUES (ARRAY[%s], ARRAY[%s]::smallint[], ARRAY[%s])"


def ended_tasks(
    url: str,
    number: int,
    tenant: str,
    *,
    days: int = 1,
    partition: bool = True,
    ago: timedelta | None = None,
    long: bool = False,
    failed: bool = False,
) -> list[str]:
    """Adds tasks that ended long enough ago for a class of `days`; gives their ids.

    They have a partition of their own, unless none was made in time; with `long` their last event had no room in their rows. They
    completed, or `failed`.
    """
    hours = random.randrange(1, 20_000)
    begin = datetime.now(UTC) - (ago or timedelta(days=days, hours=3 + hours))
    tasks = []
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        if partition:
            cursor.execute(
                "SELECT scheduler.add_task_partition(%s::smallint, %s, %s)", (days, begin, begin + timedelta(seconds=1))
            )
        for place in range(number):
            created = begin + timedelta(milliseconds=place % 900)
            task_id = _id_of(created)
            run = Run(
                tenant,
                task_id,
                shard_of(task_id),
                State.PENDING,
                QUEUE,
                KIND,
                5,
                0,
                1,
                10_000,
                1,
                False,
                None,
                "",
                created,
                create_time=created,
            )
            events, records = [], []
            for change in ("created", "started", "completed"):
                now = created + timedelta(milliseconds=100)
                if change == "created":
                    told: Any = Created("It was long ago.", 5, {})
                elif change == "started":
                    told = run.start("worker", now, timedelta(seconds=5))
                elif failed:
                    told = run.fail("BROKEN", "It broke.", now)
                else:
                    told = run.complete(_RESULT, now)
                event = event_of(run, told, "worker", now)
                events.append(event)
                records.append(pack(run.shard, task_id, "", event.value, encode_snapshot(run, event.number, now)))
                run.next_event_number += 1
            inline = events[:2] if long else events
            log = b"".join(frame(event.value) for event in inline)
            cursor.execute(
                _INSERT,
                (
                    tenant, task_id, created, run.start_time, run.finish_time, int(run.state), len(inline), QUEUE, KIND, log,
                    run.result, days,
                ),
            )  # fmt: skip
            if failed:
                cursor.execute(_DEAD_LETTER, (tenant, task_id, QUEUE, KIND, run.finish_time, days))
            for event in events[len(inline) :]:
                cursor.execute(_EVENT, (tenant, task_id, event.number, event.value))
            cursor.execute(_OUTBOX, (lane_of(run.shard), tenant, b"".join(records)))
            cursor.execute(_REQUEST, (tenant, f"request-{task_id}", task_id))
            tasks.append(task_id)
        cursor.execute(_COUNT, (QUEUE, int(State.FAILED if failed else State.COMPLETED), number))
    return tasks


def take_newest_partition(url: str) -> None:
    """Has a class of a week used, and takes out the last partition that was made for it: there is one to be made again."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute("UPDATE scheduler.queues SET retention_days = 7 WHERE queue = 'analysis'")
        cursor.execute(_TAKE_NEWEST)


def _id_of(moment: datetime) -> str:
    """A UUIDv7 of a time (RFC 9562)."""
    value = int(moment.timestamp() * 1000) << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)
    return str(uuid.UUID(int=value))
