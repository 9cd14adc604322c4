"""SignalTask: sends a task a value under a name, once."""

from __future__ import annotations

import asyncio
import random

from services.common.errors import Aborted
from services.common.ids import is_id
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.ports import TaskSignaller
from services.scheduler.domain.task import Task

_ATTEMPTS = 5


class SignalTask:
    """Signals; a task that waits for it goes on."""

    def __init__(self, signaller: TaskSignaller) -> None:
        self._signaller = signaller

    async def execute(self, tenant_id: str, task_id: str, signal: str, value: bytes, actor: str) -> Task:
        """The task afterwards; raises TaskNotFound, TaskEnded or SignalAlreadySent."""
        if not is_id(task_id):
            raise TaskNotFound(task_id)
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._signaller.signal(tenant_id, task_id.lower(), signal, value, actor)
            except Aborted:
                await asyncio.sleep(random.random() * 0.01 * 2**attempt)  # noqa: S311 - not a secret
        return await self._signaller.signal(tenant_id, task_id.lower(), signal, value, actor)
