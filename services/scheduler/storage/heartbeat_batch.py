"""Renews many leases in one statement. A renewal changes no indexed column and makes no event."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
from prometheus_client import Counter

from services.common.ids import is_id
from services.scheduler.domain.run import end_reason
from services.scheduler.domain.worker import Heartbeat
from services.scheduler.storage.runs import lock_runs, read_finished

renewals = Counter(
    "guildmesh_lease_renewals", "Heartbeats, by what they were answered: renewed, or why the attempt must stop.", ["answer"]
)

_RENEW = """
WITH beats AS (
  SELECT DISTINCT ON (task_id) * FROM unnest($1::uuid[], $2::int[], $3::real[], $4::text[])
    AS b (task_id, attempt, progress, tenant_id) ORDER BY task_id, attempt DESC
), locked AS MATERIALIZED (
  SELECT r.tenant_id, r.task_id, b.progress FROM tasks r JOIN beats b USING (task_id)
  WHERE r.task_id = ANY($1) AND r.state = 2 AND r.attempt = b.attempt AND (b.tenant_id IS NULL OR b.tenant_id = r.tenant_id)
  ORDER BY r.task_id FOR NO KEY UPDATE OF r
)
UPDATE tasks r SET lease_expires = clock_timestamp() + $5, progress = COALESCE(l.progress, r.progress),
  quiet_ends = CASE WHEN l.progress IS NULL THEN r.quiet_ends
    ELSE clock_timestamp() + r.heartbeat_timeout_ms * interval '1 ms' END
FROM locked l WHERE r.task_id = l.task_id AND r.tenant_id = l.tenant_id AND r.task_id = ANY($1)
RETURNING r.task_id, r.attempt
"""


async def renew_leases(connection: asyncpg.Connection, heartbeats: Sequence[Heartbeat], lease: timedelta) -> list[str]:
    """Renews; gives each "" or why the attempt must stop: CANCELLED, TIMEOUT, DEADLINE_EXCEEDED or STALE_ATTEMPT."""
    sound = [beat for beat in heartbeats if is_id(beat.task_id)]
    rows = await connection.fetch(
        _RENEW,
        [beat.task_id for beat in sound],
        [beat.attempt for beat in sound],
        [beat.progress for beat in sound],
        [beat.tenant_id for beat in sound],
        lease,
    )
    renewed = {(str(row["task_id"]), row["attempt"]) for row in rows}
    lost = [beat for beat in sound if (beat.task_id, beat.attempt) not in renewed]
    lost_ids = [beat.task_id for beat in lost]
    runs = (await lock_runs(connection, lost_ids))[0] if lost else {}
    finished = await read_finished(connection, lost_ids) if lost else {}
    answers = []
    for beat in heartbeats:
        if (beat.task_id, beat.attempt) in renewed:
            answers.append("")
        elif beat.task_id in runs and beat.tenant_id in (None, runs[beat.task_id].tenant_id):
            answers.append(runs[beat.task_id].stop_reason(beat.attempt) or "STALE_ATTEMPT")
        elif (end := finished.get(beat.task_id)) is not None and beat.tenant_id in (None, end.tenant_id):
            answers.append(end_reason(end.state, end.attempt, end.error_reason, beat.attempt))
        else:
            answers.append("STALE_ATTEMPT")
    for answer, number in Tally(answers).items():
        renewals.labels(answer or "renewed").inc(number)
    return answers
