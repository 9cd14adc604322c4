"""Schedules that are due now, as if nobody had been there for some minutes, and whether each of their times has one task."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
from guildmesh.scheduler.v1 import task_pb2

RUNS = 3
"""of each schedule: the last full minutes. After these it ends."""
_TASK = task_pb2.Task(description="by the clock", kind="clock")
# Overlapping runs are allowed (1), and all that were missed start (3).
_INSERT = """
INSERT INTO scheduler.schedules (tenant_id, schedule_id, uid, create_time, update_time, next_time, wake_time, end_time,
  catch_up_window, jitter, overlap_policy, missed_run_policy, cron, time_zone, created_by, task)
SELECT %s, 's-' || u, u, now(), now(), first, first, first + %s * interval '1 minute', '1 hour', '0', 1, 3, '* * * * *',
  'Europe/Berlin', 'clock', %s
FROM unnest(%s::uuid[]) u, (SELECT date_trunc('minute', now()) - %s * interval '1 minute' AS first) f
"""
_LEFT = "SELECT schedule_id, run_count, wake_time IS NULL FROM scheduler.schedules WHERE tenant_id = %s"
_SPECS = """
SELECT spec FROM scheduler.tasks WHERE tenant_id = %s UNION ALL SELECT spec FROM scheduler.finished_tasks WHERE tenant_id = %s
"""
Query = Callable[..., list[Any]]


def due_schedules(url: str, number: int, tenant: str) -> None:
    """Adds schedules with RUNS runs each that are due."""
    arguments = (tenant, RUNS - 1, _TASK.SerializeToString(), [str(uuid.uuid4()) for _ in range(number)], RUNS - 1)
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute(_INSERT, arguments)


def all_started(query: Query, tenant: str) -> bool:
    """Whether no run of the tenant's schedules is left to start."""
    return all(done for _, _, done in query(_LEFT, tenant))


def unfair_runs(query: Query, tenant: str) -> list[str]:
    """What is wrong with the runs of the tenant's schedules; `query` gives the rows of a statement."""
    problems = []
    found: Counter[str] = Counter()
    times: Counter[tuple[str, str]] = Counter()
    for (spec,) in query(_SPECS, tenant, tenant):
        labels = task_pb2.Task.FromString(bytes(spec)).labels
        found[labels["guildmesh.schedule_id"]] += 1
        times[labels["guildmesh.schedule_id"], labels["guildmesh.schedule_time"]] += 1
    problems += [f"{schedule} at {time} has {number} tasks" for (schedule, time), number in times.items() if number > 1]
    for schedule, count, done in query(_LEFT, tenant):
        if (count, found[schedule], done) != (RUNS, RUNS, True):
            problems.append(
                f"{schedule} counts {count} runs of {RUNS}, has {found[schedule]} tasks, {'' if done else 'not '}done"
            )
    return problems
