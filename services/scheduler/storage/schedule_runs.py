"""What starting runs has in common, by a schedule itself or by somebody who asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from services.common.errors import DomainError
from services.scheduler.domain.errors import QueueNotFound
from services.scheduler.domain.task import NewTask, Queue, Task
from services.scheduler.usecases.queues import put_in

_QUEUES = "SELECT tenant_id, queue, priority, retention_days FROM queues WHERE tenant_id = ANY($1)"
_EVERYONE = "*"


async def fill_queues(
    connection: asyncpg.Connection, tasks: Sequence[NewTask], retention_days: int
) -> Sequence[QueueNotFound | None]:
    """Gives each task what its queue says, as CreateTask does, with `retention_days` where it does not; says which have none."""
    rows = await connection.fetch(_QUEUES, [_EVERYONE, *{task.tenant_id for task in tasks}])
    known: dict[str, dict[str, Queue]] = {}
    for tenant_id, name, priority, days in rows:
        known.setdefault(tenant_id, {})[name] = Queue(name, priority, retention_days if days is None else days)
    problems: list[QueueNotFound | None] = []
    for task in tasks:
        queues = known.get(_EVERYONE, {}) | known.get(task.tenant_id, {})
        queue = queues.get(task.queue)
        problems.append(None if queue is not None else QueueNotFound(task.queue, queues))
        if queue is not None:
            put_in(task, queue)
    return problems


def of_this_call(tasks: Sequence[NewTask], answers: Sequence[Task | DomainError]) -> list[str]:
    """The ids of those that were created now, and not by an earlier call with the same request id."""
    return [
        task.task_id
        for task, answer in zip(tasks, answers, strict=True)
        if isinstance(answer, Task) and answer.task_id == task.task_id
    ]
