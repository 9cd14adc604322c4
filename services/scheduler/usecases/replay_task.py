"""ReplayTask: creates a task like one that failed."""

from __future__ import annotations

from services.common.ids import is_id
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.ports import TaskReplayer
from services.scheduler.domain.task import Task
from services.scheduler.usecases.conflicts import past_conflicts


class ReplayTask:
    """Replays one task."""

    def __init__(self, replayer: TaskReplayer) -> None:
        self._replayer = replayer

    async def execute(self, tenant_id: str, task_id: str, subject: str, *, again: bool, request_id: str) -> Task:
        """The new task; a repeat gives the same one, unless it is to be replayed `again`.

        Raises:
            TaskNotFound, TaskNotFailed, ReplayNotKept, QueueNotFound.
        """
        if not is_id(task_id):
            raise TaskNotFound(task_id)
        return await past_conflicts(
            lambda: self._replayer.replay(tenant_id, task_id.lower(), subject, again=again, request_id=request_id)
        )
