"""What starting runs has in common, by a schedule itself or by somebody who asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import asyncpg

from services.common.errors import DomainError
from services.scheduler.domain.errors import QueueNotFound
from services.scheduler.domain.queue import EVERY_TENANT, Queue
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.storage.queues import COLUMNS, queue_of
from services.scheduler.usecases.queues import put_in

_QUEUES = f"SELECT {COLUMNS} FROM queues WHERE tenant_id = ANY($1)"  # noqa: S608 - constants only


async def fill_queues(
    connection: asyncpg.Connection, tasks: Sequence[NewTask], retention_days: int
) -> Sequence[QueueNotFound | None]:
    """Gives each task what its queue says, as CreateTask does, with `retention_days` where it does not; says which have none."""
    rows = await connection.fetch(_QUEUES, [EVERY_TENANT, *{task.tenant_id for task in tasks}])
    known: dict[str, dict[str, Queue]] = {}
    for queue in map(queue_of, rows):
        if queue.retention_days is None:
            queue = replace(queue, retention_days=retention_days)
        known.setdefault(queue.tenant_id, {})[queue.queue] = queue
    problems: list[QueueNotFound | None] = []
    for task in tasks:
        queues = known.get(EVERY_TENANT, {}) | known.get(task.tenant_id, {})
        found = queues.get(task.queue)
        problems.append(None if found is not None else QueueNotFound(task.queue, queues))
        if found is not None:
            put_in(task, found)
    return problems


def of_this_call(tasks: Sequence[NewTask], answers: Sequence[Task | DomainError]) -> list[str]:
    """The ids of those that were created now, and not by an earlier call with the same request id."""
    return [
        task.task_id
        for task, answer in zip(tasks, answers, strict=True)
        if isinstance(answer, Task) and answer.task_id == task.task_id
    ]
