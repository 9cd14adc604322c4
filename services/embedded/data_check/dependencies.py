"""Dependencies: who waits for whom."""

from __future__ import annotations

import psycopg2.extensions

from services.embedded.data_check.finding import DataFinding
from services.embedded.data_check.reading import count_rows, read_rows

# Who has ended and has not told all of its dependants is known to the sweeper.
_DEPENDENCIES = """
SELECT d.task_id::text, d.upstream_id::text, CASE
  WHEN t.task_id IS NULL THEN 'the task has ended or is not there'
  WHEN t.blocked_by IS NULL THEN 'the task does not know of it'
  WHEN d.upstream_state IS NOT NULL THEN NULL
  WHEN u.task_id IS NOT NULL AND NOT u.has_dependants THEN 'the dependency does not know of it'
  WHEN u.task_id IS NULL AND w.task_id IS NULL THEN 'the dependency has ended, and the task was not told'
  END AS problem
FROM task_dependencies d
LEFT JOIN tasks t ON t.task_id = d.task_id AND t.tenant_id = d.tenant_id
LEFT JOIN tasks u ON u.task_id = d.upstream_id AND u.tenant_id = d.tenant_id
LEFT JOIN unsettled_tasks w ON w.task_id = d.upstream_id AND w.tenant_id = d.tenant_id
"""
_BLOCKED = """
SELECT t.task_id::text, t.blocked_by, count(d.task_id) FILTER (WHERE d.upstream_state IS NULL) FROM tasks t
LEFT JOIN task_dependencies d ON d.task_id = t.task_id AND d.tenant_id = t.tenant_id
WHERE t.state = 8 OR t.blocked_by IS NOT NULL GROUP BY t.tenant_id, t.task_id, t.state, t.blocked_by
HAVING t.blocked_by IS DISTINCT FROM count(d.task_id) FILTER (WHERE d.upstream_state IS NULL)
  OR (t.state = 8) <> (t.blocked_by > 0)
"""


def check_dependencies(connection: psycopg2.extensions.connection) -> DataFinding:
    """A task is BLOCKED as long as what it depends on has not ended, and knows by how many."""
    finding = DataFinding("dependencies", count_rows(connection, "task_dependencies"))
    for task_id, upstream_id, problem in read_rows(connection, f"SELECT * FROM ({_DEPENDENCIES}) d WHERE problem IS NOT NULL"):  # noqa: S608
        finding.bad(f"{task_id}: its dependency on {upstream_id} does not fit: {problem}")
    for task_id, blocked_by, unresolved in read_rows(connection, _BLOCKED):
        finding.bad(f"{task_id}: is blocked by {blocked_by}, and {unresolved} of its dependencies have not ended")
    return finding
