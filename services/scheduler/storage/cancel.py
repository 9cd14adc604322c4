"""Cancels a task and its subtasks for one tenant, under its row security."""

from __future__ import annotations

from services.common.db.driver import Driver
from services.common.failpoints import fail_point
from services.scheduler.domain.errors import TaskNotCancellable, TaskNotFound
from services.scheduler.domain.task import State, Task
from services.scheduler.domain.wake import Wake
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.runs import cancel_children, lock_runs
from services.scheduler.storage.tasks import GET_TASK, task_of
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
            runs, now = await lock_runs(connection, [task_id])
            run = runs.get(task_id)
            if run is None or run.tenant_id != tenant_id:
                # A task that ends meanwhile is in one of the two tables at any moment.
                row = await connection.fetchrow(GET_TASK, tenant_id, task_id)
                if row is None:
                    raise TaskNotFound(task_id)
                raise TaskNotCancellable(task_id, task_of(row).state.status)
            log = ChangeLog(self._waker.origin, self._waker.watched, tenant_id)
            running, attempt = run.state is State.RUNNING, run.attempt
            log.add(run, run.cancel(cause, now), actor, now)
            if running:
                log.stop(run, attempt, "CANCELLED")
            await cancel_children(connection, log, [run], runs, cause or "The parent task was cancelled.", actor)
            await log.write(connection)
            await fail_point("scheduler.cancel.before_commit", connection.terminate)
            return task_of(await connection.fetchrow(GET_TASK, tenant_id, task_id)), log.wake
