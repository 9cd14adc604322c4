"""How much waits, and since when: told by one relay of all (the one that has lane 0), so that a sum over processes stays true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from prometheus_client import Gauge

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.scheduler.domain.task import State
from services.scheduler.relay.lag import Lag
from services.scheduler.storage.counts import count_tasks

log = structlog.get_logger(__name__)

SECONDS = 5.0

tasks = Gauge("guildmesh_tasks", "Tasks that are kept, by queue and state.", ["queue", "state"])
oldest_pending = Gauge("guildmesh_oldest_pending_task_seconds", "Age of the oldest task that waits for a worker.", ["kind"])
outbox_events = Gauge("guildmesh_outbox_events", "Events that wait for Kafka.")
outbox_seconds = Gauge("guildmesh_outbox_oldest_seconds", "Age of the oldest event that waits for Kafka; 0 when none does.")

# One step along the index for each kind and priority, however many tasks wait: the head of each line is its oldest.
_OLDEST = """
WITH RECURSIVE heads AS (
  (SELECT kind, queue_priority, priority, create_time FROM tasks WHERE state = 1 AND queue_tenant IS NULL
   ORDER BY kind, queue_priority DESC, priority DESC, position LIMIT 1)
  UNION ALL
  SELECT n.* FROM heads h CROSS JOIN LATERAL (
    SELECT t.kind, t.queue_priority, t.priority, t.create_time FROM tasks t
    WHERE t.state = 1 AND t.queue_tenant IS NULL AND (t.kind > h.kind OR t.kind = h.kind AND (
      t.queue_priority < h.queue_priority OR t.queue_priority = h.queue_priority AND t.priority < h.priority))
    ORDER BY t.kind, t.queue_priority DESC, t.priority DESC, t.position LIMIT 1
  ) n
), decided AS (
  (SELECT queue_tenant, queue, tenant_id, kind, -priority AS place, create_time FROM tasks
   WHERE state = 1 AND queue_tenant IS NOT NULL
   ORDER BY queue_tenant, queue, tenant_id, kind, (-priority), position LIMIT 1)
  UNION ALL
  SELECT n.* FROM decided d CROSS JOIN LATERAL (
    SELECT t.queue_tenant, t.queue, t.tenant_id, t.kind, -t.priority, t.create_time FROM tasks t
    WHERE t.state = 1 AND t.queue_tenant IS NOT NULL
      AND (t.queue_tenant, t.queue, t.tenant_id, t.kind, -t.priority) > (d.queue_tenant, d.queue, d.tenant_id, d.kind, d.place)
    ORDER BY t.queue_tenant, t.queue, t.tenant_id, t.kind, (-t.priority), t.position LIMIT 1
  ) n
)
SELECT kind, extract(epoch FROM max(clock_timestamp() - create_time))::float FROM (
  SELECT kind, create_time FROM heads UNION ALL SELECT kind, create_time FROM decided
) oldest GROUP BY kind
"""


class Gauges:
    """Reads the gauges every few seconds while this relay is the one to tell them."""

    def __init__(self, database: EngineDriver, lag: Lag, speaks: Callable[[], bool]) -> None:
        self._database = database
        self._lag = lag
        self._speaks = speaks

    async def run(self) -> None:
        """Reads until cancelled; survives the database being away."""
        while True:
            try:
                if self._speaks():
                    await self.read()
                else:
                    _clear()
            except DomainError as error:
                log.warning("gauges_not_read", error=str(error))
            except Exception:
                log.exception("gauges_not_read")
            await asyncio.sleep(SECONDS)

    async def read(self) -> None:
        """Reads the gauges once."""
        async with self._database.transaction() as connection:
            counts = await count_tasks(connection)
            ages = await connection.fetch(_OLDEST)
        waiting = await self._lag.waiting()
        _clear()
        for (queue, state), number in counts.items():
            tasks.labels(queue, State(state).status).set(number)
        for kind, age in ages:
            oldest_pending.labels(kind).set(age)
        outbox_events.set(waiting.events)
        outbox_seconds.set(waiting.oldest_seconds)


def _clear() -> None:
    tasks.clear()
    oldest_pending.clear()
    outbox_events.set(0)
    outbox_seconds.set(0)
