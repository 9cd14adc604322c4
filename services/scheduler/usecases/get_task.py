"""GetTask: a task of the caller's tenant."""

from __future__ import annotations

from services.common.ids import is_id
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.task import Task


class GetTask:
    """Gives one task."""

    def __init__(self, reader: TaskReader) -> None:
        self._reader = reader

    async def execute(self, tenant_id: str, task_id: str) -> Task:
        """The task; raises TaskNotFound, also for what is no id."""
        task = await self._reader.get(tenant_id, task_id) if is_id(task_id) else None
        if task is None:
            raise TaskNotFound(task_id)
        return task
