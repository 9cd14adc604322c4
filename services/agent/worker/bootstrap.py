"""Where the parts of the worker are chosen and put together."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from guildmesh_client.worker import Worker

from services.agent.adapters.memory_service import MemoryServiceMemories
from services.agent.adapters.model_orchestrator import open_language_model
from services.agent.adapters.scheduler_service import SchedulerSubtasks
from services.agent.adapters.tool_service import ToolServiceTools
from services.agent.domain.active_agents import ActiveAgents
from services.agent.domain.work import ANSWER_TASK, RUN_SCENARIO, RUN_STEP, Attempt
from services.agent.settings import AgentSettings
from services.agent.usecases.answer_task import AnswerTask
from services.agent.usecases.coordinate_scenario import CoordinateScenario
from services.agent.usecases.run_step import RunStep
from services.agent.worker.handlers import handler, on_behalf_of_creator
from services.common.errors import DependencyUnavailable
from services.common.grpcx.channel import open_channel
from services.common.json_values import JsonObject
from services.common.service import Service
from services.common.telemetry import metrics

# Bound of one tool execution (requirement row 4).
_TOOL_SECONDS = 30.0
_REFRESH_SECONDS = 5.0


@asynccontextmanager
async def open_service(settings: AgentSettings) -> AsyncIterator[Service]:
    """One worker process. It is ready when the scheduler has welcomed both of its streams."""
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(open_channel(settings, "scheduler"))
        memory = await stack.enter_async_context(open_channel(settings, "memory"))
        tool = await stack.enter_async_context(open_channel(settings, "tool"))
        model = await stack.enter_async_context(open_language_model(settings))
        active = ActiveAgents(_publish, settings.agent_active_seconds)
        answer = AnswerTask(model)
        coordinate = CoordinateScenario(SchedulerSubtasks(scheduler))

        async def answer_task(tenant_id: str, attempt: Attempt) -> JsonObject:
            with active.working((tenant_id, ANSWER_TASK), "assistant"):
                return await answer(attempt)

        async def coordinate_scenario(tenant_id: str, attempt: Attempt) -> JsonObject:
            return await coordinate(attempt)

        run_step = RunStep(model, ToolServiceTools(tool, _TOOL_SECONDS), MemoryServiceMemories(memory), active)
        name = f"agent-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        steps = _worker(scheduler, f"{name}-steps", settings.worker_concurrency, settings.drain_seconds)
        steps.task(ANSWER_TASK)(handler(answer_task))
        steps.task(RUN_STEP)(handler(run_step))
        # A coordinator that stops leaves nothing behind, so a stopping process does not wait for runs to end.
        runs = _worker(scheduler, f"{name}-runs", settings.worker_runs, 0.0)
        runs.task(RUN_SCENARIO)(handler(coordinate_scenario))
        keepers = [_Keeper("steps", steps), _Keeper("runs", runs)]

        async def refresh() -> None:
            while True:
                await asyncio.sleep(_REFRESH_SECONDS)
                active.refresh()

        async def drain() -> None:
            await asyncio.gather(*(keeper.stop() for keeper in keepers))

        async def check() -> None:
            for keeper in keepers:
                keeper.check()

        yield Service(
            name="agent",
            background=[*(keeper.work for keeper in keepers), refresh],
            checks={"scheduler": check},
            drain=[drain],
            serves_grpc=False,
        )


class _Keeper:
    """Runs one worker for as long as the process lives."""

    def __init__(self, name: str, worker: Worker) -> None:
        self._name = name
        self._worker = worker
        self._finished = asyncio.Event()

    async def work(self) -> None:
        """Works until it is stopped, then waits for the process to end: a background task that ends would say that it failed."""
        try:
            await self._worker.run()
        finally:
            self._finished.set()
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Takes no more tasks, and returns when those that run have ended or had their time."""
        self._worker.stop()
        await self._finished.wait()

    def check(self) -> None:
        """Raises DependencyUnavailable while the scheduler has not welcomed the stream."""
        if not self._worker.connected:
            raise DependencyUnavailable(f"scheduler's work stream of the {self._name}")


def _worker(channel: grpc.aio.Channel, worker_id: str, concurrency: int, drain_seconds: float) -> Worker:
    return Worker(
        channel=channel,
        worker_id=worker_id,
        concurrency=concurrency,
        drain_seconds=drain_seconds,
        all_tenants=True,
        around=on_behalf_of_creator,
    )


def _publish(agent_type: str, count: int) -> None:
    metrics.active_count.labels(agent_type).set(count)
