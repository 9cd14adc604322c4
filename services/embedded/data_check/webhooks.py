"""Webhooks: what waits for its delivery is in line, each has a place from which it goes on, and how many secrets are plain."""

from __future__ import annotations

import psycopg2.extensions

from services.embedded.data_check.finding import DataFinding
from services.embedded.data_check.reading import read_rows

_COUNT = "SELECT count(*) FROM webhook_deliveries"
_PLAIN = "SELECT count(*) FROM webhooks WHERE master_key_id IS NULL"
_NOT_IN_LINE = """
SELECT DISTINCT w.webhook_id, d.task_id::text FROM webhook_deliveries d JOIN webhooks w USING (tenant_id, uid)
WHERE d.fail_time IS NULL AND NOT EXISTS (
  SELECT FROM webhook_lines l
  WHERE l.tenant_id = d.tenant_id AND l.uid = d.uid AND l.task_id = d.task_id AND l.lane = d.lane
)
"""
_NOTHING_IN_LINE = """
SELECT w.webhook_id, l.task_id::text FROM webhook_lines l JOIN webhooks w USING (tenant_id, uid)
WHERE NOT EXISTS (
  SELECT FROM webhook_deliveries d
  WHERE d.tenant_id = l.tenant_id AND d.uid = l.uid AND d.task_id = l.task_id AND d.fail_time IS NULL
)
"""
_NOWHERE = """
SELECT w.webhook_id, l.lane FROM webhooks w CROSS JOIN webhook_lanes l
WHERE l.positions IS NULL AND NOT EXISTS (SELECT FROM webhook_places p WHERE p.lane = l.lane AND p.tenant_id = w.tenant_id)
  AND NOT EXISTS (SELECT FROM webhook_backlogs b WHERE b.tenant_id = w.tenant_id AND b.uid = w.uid AND b.lane = l.lane)
ORDER BY 1, 2
"""


def check_webhooks(connection: psycopg2.extensions.connection) -> DataFinding:
    """Each task with events that wait has a line, and no other has; each webhook has its places; plain secrets are noted."""
    [(rows,)] = read_rows(connection, _COUNT)
    [(plain,)] = read_rows(connection, _PLAIN)
    finding = DataFinding("webhooks", rows, note=f"webhooks whose secrets are plain: {plain:,}" if plain else "")
    for webhook_id, task_id in read_rows(connection, _NOT_IN_LINE):
        finding.bad(f"{webhook_id}: events of {task_id} wait, and nobody will deliver them")
    for webhook_id, task_id in read_rows(connection, _NOTHING_IN_LINE):
        finding.bad(f"{webhook_id}: {task_id} is in line with nothing to deliver")
    for webhook_id, lane in read_rows(connection, _NOWHERE):
        finding.bad(f"{webhook_id}: where it goes on in the lane {lane} is not known; use `guildmesh webhooks replay --since`")
    return finding
