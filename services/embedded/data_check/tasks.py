"""Tasks: the table that each lies in, their leases, request ids, step journals and subtasks."""

from __future__ import annotations

import psycopg2.extensions

from services.embedded.data_check.finding import DataFinding
from services.embedded.data_check.reading import LEAVING, SWEPT_SECONDS, count_rows, read_rows, stream_rows
from services.scheduler.domain.task import State

_STATES = """
SELECT task_id::text, state FROM tasks WHERE state NOT IN (1, 2, 6, 7, 8)
UNION ALL SELECT task_id::text, state FROM finished_tasks WHERE state NOT IN (3, 4, 5)
"""
_TWICE = "SELECT t.task_id::text FROM tasks t JOIN finished_tasks f ON f.task_id = t.task_id AND f.tenant_id = t.tenant_id"


def check_places(connection: psycopg2.extensions.connection) -> DataFinding:
    """Each task in one table: the unended ones in the one, the ended ones in the other."""
    finding = DataFinding("tasks", count_rows(connection, "tasks", "finished_tasks"))
    for task_id, state in read_rows(connection, _STATES):
        finding.bad(f"{task_id}: lies in the wrong table, its state is {state}")
    for (task_id,) in read_rows(connection, _TWICE):
        finding.bad(f"{task_id}: is both ended and not")
    waiting = count_rows(connection, "tasks")
    if waiting:
        finding.note = f"{waiting} have not ended; whether they are left behind can be told when all is quiet"
    return finding


_LEASES = f"""
SELECT task_id::text, state, attempt, max_attempts, worker_id IS NOT NULL, lease_expires IS NOT NULL, deadline IS NOT NULL,
  start_time IS NOT NULL, lease_expires < clock_timestamp() - interval '{SWEPT_SECONDS} seconds',
  deadline < clock_timestamp() - interval '{SWEPT_SECONDS} seconds'
FROM tasks
"""  # noqa: S608 - constants only


def check_leases(connection: psycopg2.extensions.connection) -> DataFinding:
    """Who runs has a lease, who waits has none, and no lease or timeout is long over."""
    finding = DataFinding("leases")
    for row in stream_rows(connection, _LEASES):
        task_id, state, attempt, most, worker, lease, deadline, started, stale, late = row
        finding.rows += 1
        if state == State.RUNNING and not (worker and lease and deadline and started):
            finding.bad(f"{task_id}: runs without a worker, a lease, a start or a timeout")
        if state == State.PENDING and lease:
            finding.bad(f"{task_id}: waits, and has a lease")
        if (attempt > 0) != started or (attempt > 0) != deadline:
            finding.bad(f"{task_id}: is at attempt {attempt}, and has {'a' if started else 'no'} start")
        if attempt > most:
            finding.bad(f"{task_id}: is at attempt {attempt} of {most}")
        if stale or late:
            finding.bad(f"{task_id}: its {'lease' if stale else 'timeout'} ended over {SWEPT_SECONDS} s ago; no scheduler sweeps")
    return finding


_REQUESTS = f"""
SELECT q.request_id, q.task_id::text FROM task_requests q
WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = q.task_id AND t.tenant_id = q.tenant_id)
  AND NOT EXISTS (SELECT FROM finished_tasks f WHERE f.task_id = q.task_id AND f.tenant_id = q.tenant_id)
  AND NOT EXISTS ({LEAVING.format(task_id="q.task_id")})
"""  # noqa: S608 - constants only
_SHARED = """
SELECT min(request_id), task_id::text, count(*) FROM task_requests GROUP BY tenant_id, task_id HAVING count(*) > 1
"""


def check_requests(connection: psycopg2.extensions.connection) -> DataFinding:
    """A request id leads to the one task that was made for it."""
    finding = DataFinding("request ids", count_rows(connection, "task_requests"))
    for request_id, task_id in read_rows(connection, _REQUESTS):
        finding.bad(f"{task_id}: the request {request_id!r} leads to it, and it is not there")
    for request_id, task_id, number in read_rows(connection, _SHARED):
        finding.bad(f"{task_id}: {number} requests lead to it, such as {request_id!r}")
    return finding


_STEPS = """
SELECT s.task_id::text, s.step_id, s.attempt, t.attempt FROM task_steps s
LEFT JOIN tasks t ON t.task_id = s.task_id AND t.tenant_id = s.tenant_id
WHERE t.task_id IS NULL OR s.attempt > t.attempt OR s.number >= t.next_event_number OR NOT t.has_steps
"""


def check_steps(connection: psycopg2.extensions.connection) -> DataFinding:
    """A journal belongs to a task that has not ended."""
    finding = DataFinding("step journals", count_rows(connection, "task_steps"))
    for task_id, step_id, attempt, newest in read_rows(connection, _STEPS):
        text = "the task has ended or is not there" if newest is None else f"attempt {attempt} wrote it, the task is at {newest}"
        finding.bad(f"{task_id}: the step {step_id!r} does not fit: {text}")
    return finding


_APPENDED = """
SELECT a.task_id::text, a.source, a.source_id, t.next_event_number IS NULL FROM appended_events a
LEFT JOIN tasks t ON t.task_id = a.task_id AND t.tenant_id = a.tenant_id
WHERE t.task_id IS NULL OR a.number >= t.next_event_number OR NOT t.has_steps
"""


def check_appended(connection: psycopg2.extensions.connection) -> DataFinding:
    """What is remembered of the events of other services belongs to a task that has not ended."""
    finding = DataFinding("events of other services", count_rows(connection, "appended_events"))
    for task_id, source, source_id, gone in read_rows(connection, _APPENDED):
        text = "the task has ended or is not there" if gone else "the task does not know of it"
        finding.bad(f"{task_id}: the event {source_id!r} of {source} does not fit: {text}")
    return finding


_CHILDREN = """
SELECT c.task_id::text, p.state FROM tasks c
LEFT JOIN LATERAL (
  SELECT state, has_children FROM tasks p WHERE p.task_id = c.parent_task_id AND p.tenant_id = c.tenant_id
  UNION ALL
  SELECT state, true FROM finished_tasks f WHERE f.task_id = c.parent_task_id AND f.tenant_id = c.tenant_id
) p ON true
WHERE c.parent_task_id IS NOT NULL AND (p.state IS NULL OR p.state IN (3, 4, 5) OR NOT p.has_children)
"""


def check_children(connection: psycopg2.extensions.connection) -> DataFinding:
    """A subtask that has not ended has a parent that has not ended either, and knows of it."""
    [(number,)] = read_rows(connection, "SELECT count(*) FROM tasks WHERE parent_task_id IS NOT NULL")
    finding = DataFinding("subtasks", number)
    for task_id, state in read_rows(connection, _CHILDREN):
        if state is None:
            finding.bad(f"{task_id}: its parent is not there")
        elif State(state).ended:
            finding.bad(f"{task_id}: goes on, and its parent has ended")
        else:
            finding.bad(f"{task_id}: its parent does not know of it")
    return finding
