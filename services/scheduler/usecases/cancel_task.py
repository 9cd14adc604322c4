"""CancelTask: cancels a task and all its subtasks."""

from __future__ import annotations

import asyncio
import random

from services.common.errors import Aborted
from services.common.ids import is_id
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.ports import TaskCanceller
from services.scheduler.domain.task import Task

_ATTEMPTS = 5


class CancelTask:
    """Cancels; running attempts are told to stop."""

    def __init__(self, canceller: TaskCanceller) -> None:
        self._canceller = canceller

    async def execute(self, tenant_id: str, task_id: str, cause: str, actor: str) -> Task:
        """The cancelled task; raises TaskNotFound or TaskNotCancellable."""
        if not is_id(task_id):
            raise TaskNotFound(task_id)
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._canceller.cancel(tenant_id, task_id.lower(), cause, actor)
            except Aborted:
                await asyncio.sleep(random.random() * 0.01 * 2**attempt)  # noqa: S311 - not a secret
        return await self._canceller.cancel(tenant_id, task_id.lower(), cause, actor)
