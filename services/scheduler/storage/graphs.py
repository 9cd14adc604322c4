"""Creates tasks that wait for each other for one tenant, under its row security: all of them in one transaction, or none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from services.common.db.clock import DatabaseClock
from services.common.db.driver import Driver
from services.common.errors import ConcurrentChange, DomainError
from services.common.failpoints import fail_point
from services.scheduler.domain.errors import RequestIdReused
from services.scheduler.domain.task_graph import NewGraph, of_node
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.create_batch import CLAIM_REQUESTS, FORGET_EXPIRED, READ_REQUESTS, create_tasks
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.payload_uses import lock_contexts
from services.scheduler.storage.tasks import READ_TASKS
from services.scheduler.storage.waking import Waker

_CLAIMS = 5


class Graphs:
    """Creates graphs for one tenant."""

    def __init__(self, database: Driver, waker: Waker, lease: timedelta, decided: DecidedQueues) -> None:
        """The last two are what new tasks are given, as by `Batches`."""
        self._decided = decided
        self._database = database
        self._waker = waker
        self._lease = lease
        self._clock = DatabaseClock()

    async def create(self, graph: NewGraph) -> Sequence[str]:
        """Creates in one transaction; see GraphStore."""
        log = ChangeLog.of(self._waker, graph.tenant_id)
        async with self._database.tenant(graph.tenant_id) as connection:
            if graph.request_id:
                # A repeat is told by what is in its payloads: it may have uploaded the same once more.
                await lock_contexts(connection, graph.tasks, [None] * len(graph.tasks))
                first_id = await _claim(connection, graph)
            else:
                first_id = graph.first_id
            if first_id == graph.first_id:
                try:
                    answers = await create_tasks(connection, self._clock, log, graph.tasks, self._lease, self._decided)
                except asyncpg.NotNullViolationError as error:
                    # One of several queues was deleted since it was looked for; a repeat looks again, and says which.
                    raise ConcurrentChange from error
                for key, answer in zip(graph.keys, answers, strict=True):
                    if isinstance(answer, DomainError):
                        raise of_node(answer, key)
            await fail_point("scheduler.graph.before_commit", connection.terminate)
        await fail_point("scheduler.graph.after_commit")
        if log:
            self._waker.wake(log.wake)
        return graph.ids_after(first_id)


async def _claim(connection: asyncpg.Connection, graph: NewGraph) -> str:
    """Claims the request id; gives the id of the first task that was made for it, now or by an earlier call."""
    key = ([graph.tenant_id], [graph.request_id])
    payload_hash = graph.payload_hash()
    for attempt in range(_CLAIMS):
        if attempt:
            await connection.execute(FORGET_EXPIRED, *key)
        if await connection.fetch(CLAIM_REQUESTS, *key, [graph.first_id], [payload_hash]):
            return graph.first_id
        # The loser reads the winner's answer in a statement of its own, whose snapshot has the winner's commit.
        for row in await connection.fetch(READ_REQUESTS, *key):
            if await connection.fetch(READ_TASKS, [row["task_id"]], [graph.tenant_id]):
                if row["payload_hash"] != payload_hash:
                    raise RequestIdReused(graph.request_id)
                return str(row["task_id"])
    raise ConcurrentChange
