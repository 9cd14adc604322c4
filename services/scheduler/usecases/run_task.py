"""RunTask: creates a task and waits for its end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from services.common.errors import Unavailable
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.usecases.create_task import CreateTask
from services.scheduler.usecases.hub import Hub, Watcher


class RunTask:
    """Watches a task from before it is created, so that the end that this process commits need not be read."""

    def __init__(self, create_task: CreateTask, reader: TaskReader, hub: Hub, poll_seconds: float = 5.0) -> None:
        """Reads again after `poll_seconds` without a wake-up: the safety net for a lost notification."""
        self._create_task = create_task
        self._reader = reader
        self._hub = hub
        self._poll_seconds = poll_seconds
        self._waiting: set[Watcher] = set()
        self._draining = False

    async def drain(self) -> None:
        """Answers everyone who waits with the task as it is, since this process is about to stop."""
        self._draining = True
        for watcher in self._waiting:
            watcher.changed.set()

    async def execute(self, task: NewTask, wait: timedelta) -> Task:
        """Creates the task and gives it when it has ended, or as it is after `wait`; raises what CreateTask raises."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait.total_seconds()
        with self._hub.watching(task.tenant_id, task.task_id) as watcher:
            created = await self._create_task.execute(task)
            if created.task_id == task.task_id:
                return await self._end(created, watcher, until)
        # A repeat: the task is there since the first call.
        with self._hub.watching(created.tenant_id, created.task_id) as watcher:
            watcher.look = True
            return await self._end(created, watcher, until)

    async def _end(self, task: Task, watcher: Watcher, until: float) -> Task:
        self._waiting.add(watcher)
        try:
            return await self._wait(task, watcher, until)
        finally:
            self._waiting.discard(watcher)

    async def _wait(self, task: Task, watcher: Watcher, until: float) -> Task:
        loop = asyncio.get_running_loop()
        while True:
            watcher.changed.clear()
            if watcher.ended is not None:
                return _ended(task, watcher.ended)
            left = 0.0 if self._draining else until - loop.time()
            if watcher.look or left <= 0:
                watcher.look = False
                task = await self._read(task, give_up=left <= 0)
                if task.state.ended or left <= 0:
                    return task
                continue
            try:
                async with asyncio.timeout(min(left, self._poll_seconds)):
                    await watcher.changed.wait()
            except TimeoutError:
                watcher.look = True

    async def _read(self, task: Task, *, give_up: bool) -> Task:
        try:
            return await self._reader.get(task.tenant_id, task.task_id) or task
        except Unavailable:
            # The task was kept, and a restart of the database ends before most callers' patience does.
            if give_up:
                raise
            await asyncio.sleep(0.5)
            return task


def _ended(task: Task, run: Run) -> Task:
    return Task(
        task.task_id, task.tenant_id, task.spec, task.create_time, task.context, task.traceparent, run.state, run.attempt,
        run.progress, run.next_event_number - 1, run.start_time, run.finish_time, run.result, run.error_reason, run.error_message,
    )  # fmt: skip
