"""CancelTask: cancels a task and all its subtasks."""

from __future__ import annotations

from services.common.ids import is_id
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.ports import TaskCanceller
from services.scheduler.domain.task import Task
from services.scheduler.usecases.conflicts import past_conflicts


class CancelTask:
    """Cancels; running attempts are told to stop."""

    def __init__(self, canceller: TaskCanceller) -> None:
        self._canceller = canceller

    async def execute(self, tenant_id: str, task_id: str, cause: str, actor: str) -> Task:
        """The cancelled task; raises TaskNotFound or TaskNotCancellable."""
        if not is_id(task_id):
            raise TaskNotFound(task_id)
        return await past_conflicts(lambda: self._canceller.cancel(tenant_id, task_id.lower(), cause, actor))
