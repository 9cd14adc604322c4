"""Schedules: looked at when their next run is due."""

from __future__ import annotations

import psycopg2.extensions

from services.embedded.data_check.finding import DataFinding, short
from services.embedded.data_check.reading import SWEPT_SECONDS, read_rows

_SCHEDULES = """
SELECT schedule_id, paused, next_time, wake_time, buffered_time IS NOT NULL,
  wake_time < clock_timestamp() - %s * interval '1 s'
FROM schedules
"""


def check_schedules(connection: psycopg2.extensions.connection) -> DataFinding:
    """A schedule is looked at when its next run is due, and a paused one never."""
    rows = read_rows(connection, _SCHEDULES, SWEPT_SECONDS)
    finding = DataFinding("schedules", len(rows))
    late = []
    for schedule_id, paused, next_time, wake_time, waits, overdue in rows:
        if paused and (next_time or wake_time or waits):
            finding.bad(f"{schedule_id}: is paused, and has a run to start")
        elif (next_time is None) != (wake_time is None):
            finding.bad(f"{schedule_id}: has a next run that nobody will look at, or is looked at for none")
        elif next_time is not None and wake_time < next_time:
            finding.bad(f"{schedule_id}: its next run is due before its time")
        elif overdue:
            late.append(schedule_id)
    if late:
        finding.note = f"runs of {short(late)} are over {SWEPT_SECONDS} s late; start a scheduler if that lasts"
    return finding
