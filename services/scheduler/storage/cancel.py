"""Cancels a task, with its subtasks and what depends on them, for one tenant, under its row security."""

from __future__ import annotations

from services.common.db.driver import Driver
from services.common.failpoints import fail_point
from services.scheduler.domain.errors import TaskNotCancellable
from services.scheduler.domain.task import Task
from services.scheduler.domain.wake import Wake
from services.scheduler.storage.cascade import cascade
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.runs import cancel_run, lock_run
from services.scheduler.storage.tasks import GET_TASK, task_of
from services.scheduler.storage.tell_parents import tell_before_the_end
from services.scheduler.storage.waking import Waker


class Cancellations:
    """Cancels for one tenant."""

    def __init__(self, database: Driver, waker: Waker) -> None:
        self._database = database
        self._waker = waker

    async def cancel(self, tenant_id: str, task_id: str, cause: str, actor: str) -> Task:
        """Cancels in one transaction; raises TaskNotFound or TaskNotCancellable."""
        task, wake = await self._cancel(tenant_id, task_id, cause, actor)
        await fail_point("scheduler.cancel.after_commit")
        self._waker.wake(wake)
        return task

    async def _cancel(self, tenant_id: str, task_id: str, cause: str, actor: str) -> tuple[Task, Wake]:
        async with self._database.tenant(tenant_id) as connection:
            run, now = await lock_run(connection, tenant_id, task_id, TaskNotCancellable)
            log = ChangeLog.of(self._waker, tenant_id)
            await tell_before_the_end(connection, log, [run], now)
            cancel_run(log, run, cause, actor, now)
            known = {task_id: run}
            await cascade(connection, log, [run], known, cause or "The parent task was cancelled.", actor, now)
            await log.write(connection)
            await fail_point("scheduler.cancel.before_commit", connection.terminate)
            return task_of(await connection.fetchrow(GET_TASK, tenant_id, task_id)), log.wake
