"""Dead letters: one for each task that failed and is kept."""

from __future__ import annotations

import psycopg2.extensions

from services.embedded.data_check.finding import DataFinding
from services.embedded.data_check.reading import LEAVING, count_rows, read_rows
from services.scheduler.domain.task import State

_UNTOLD = """
SELECT task_id::text FROM finished_tasks f
WHERE state = 4 AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.task_id = f.task_id AND d.tenant_id = f.tenant_id)
"""
_DEAD_LETTERS = f"""
SELECT d.task_id::text, f.state, d.retention_days = f.retention_days, (d.replay_task_id IS NULL) = (d.replay_time IS NULL)
FROM dead_letters d LEFT JOIN finished_tasks f ON f.task_id = d.task_id AND f.tenant_id = d.tenant_id
WHERE NOT EXISTS ({LEAVING.format(task_id="d.task_id")} AND p.retention_days = d.retention_days)
"""  # noqa: S608 - constants only


def check_dead_letters(connection: psycopg2.extensions.connection) -> DataFinding:
    """Each task that failed and is kept has its dead letter, and the other way round."""
    finding = DataFinding("dead letters", count_rows(connection, "dead_letters"))
    for (task_id,) in read_rows(connection, _UNTOLD):
        finding.bad(f"{task_id}: failed, and has no dead letter; POST /v1/tasks/{task_id}:replay makes it")
    for task_id, state, kept_as_told, told in read_rows(connection, _DEAD_LETTERS):
        if state != State.FAILED:
            finding.bad(f"{task_id}: is a dead letter, and {'is not there' if state is None else 'did not fail'}")
        elif not kept_as_told:
            finding.bad(f"{task_id}: is kept for other days than its dead letter says")
        elif not told:
            finding.bad(f"{task_id}: says when it was replayed and not as what, or the other way round")
    return finding
