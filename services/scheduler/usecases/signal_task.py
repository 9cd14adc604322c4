"""SignalTask: sends a task a value under a name, once."""

from __future__ import annotations

from services.common.ids import is_id
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.ports import TaskSignaller
from services.scheduler.domain.task import Task
from services.scheduler.usecases.conflicts import past_conflicts


class SignalTask:
    """Signals; a task that waits for it goes on."""

    def __init__(self, signaller: TaskSignaller) -> None:
        self._signaller = signaller

    async def execute(self, tenant_id: str, task_id: str, signal: str, value: bytes, actor: str) -> Task:
        """The task afterwards; raises TaskNotFound, TaskEnded, SignalAlreadySent or TooManySignals."""
        if not is_id(task_id):
            raise TaskNotFound(task_id)
        return await past_conflicts(lambda: self._signaller.signal(tenant_id, task_id.lower(), signal, value, actor))
