"""Signals a task for one tenant, under its row security."""

from __future__ import annotations

from services.common.db.driver import Driver
from services.common.failpoints import fail_point
from services.scheduler.domain.errors import SignalAlreadySent, TaskEnded, TooManySignals
from services.scheduler.domain.events import Signalled
from services.scheduler.domain.task import State, Task
from services.scheduler.domain.wake import Wake
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.journal import Journal, signal_result
from services.scheduler.storage.runs import lock_run
from services.scheduler.storage.tasks import GET_TASK, task_of
from services.scheduler.storage.waking import Waker


class Signals:
    """Signals for one tenant."""

    def __init__(self, database: Driver, waker: Waker) -> None:
        self._database = database
        self._waker = waker

    async def signal(self, tenant_id: str, task_id: str, signal: str, value: bytes, actor: str) -> Task:
        """Signals in one transaction; raises TaskNotFound, TaskEnded, SignalAlreadySent or TooManySignals."""
        task, wake = await self._signal(tenant_id, task_id, signal, value, actor)
        await fail_point("scheduler.signal.after_commit")
        self._waker.wake(wake)
        return task

    async def _signal(self, tenant_id: str, task_id: str, signal: str, value: bytes, actor: str) -> tuple[Task, Wake]:
        async with self._database.tenant(tenant_id) as connection:
            run, now = await lock_run(connection, tenant_id, task_id, TaskEnded)
            log = ChangeLog.of(self._waker, tenant_id)
            journal = await Journal.open(connection, [(run, signal)])
            result, known = signal_result(value), journal.result(run, signal)
            if known is None:
                if not await Journal.has_room(connection, run, len(result)):
                    raise TooManySignals(task_id)
                awaited = run.state is State.WAITING and run.signal == signal
                told = Signalled(signal, value, run.prompt or "" if awaited else "")
                journal.add(run, signal, log.add(run, told, actor, now), run.attempt, result)
                if awaited:
                    log.add(run, run.ready(now), actor, now)
            elif known != result:
                raise SignalAlreadySent(signal)
            await journal.write(connection)
            await log.write(connection)
            await fail_point("scheduler.signal.before_commit", connection.terminate)
            return task_of(await connection.fetchrow(GET_TASK, tenant_id, task_id)), log.wake
