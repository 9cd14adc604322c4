"""Runs a tool once for each step of a task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from services.common.context import Principal, current_call
from services.common.errors import Aborted, DependencyUnavailable, Unavailable
from services.common.ids import new_id
from services.tool.domain.built_in import code_of
from services.tool.domain.errors import (
    SandboxLost,
    SandboxUnavailable,
    StaleAttempt,
    ToolArgumentsInvalid,
    ToolOutcomeUnknown,
)
from services.tool.domain.ledger import Step
from services.tool.domain.model import JSON, Execution, Outcome, Program
from services.tool.domain.ports import Deliveries, Ledger, Sandbox, SchemaChecker, ToolStore
from services.tool.usecases.find_tool import find_tool

_RECORD_PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Seconds between tries to record an outcome; in all less than a lease."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Which tool to run, on what, and for which step."""

    tool_name: str
    arguments: Mapping[str, JSON]
    time_limit: float
    task_id: str = ""
    attempt: int = 0
    step_id: str = ""


@dataclass(frozen=True, slots=True)
class Executed:
    """What came of a call."""

    execution_id: str
    outcome: Outcome
    replayed: bool


class ExecuteTool:
    """Use case of ToolService.ExecuteTool."""

    def __init__(
        self, tools: ToolStore, ledger: Ledger, schemas: SchemaChecker, sandbox: Sandbox, deliveries: Deliveries
    ) -> None:
        """Takes the ports it works with."""
        self._tools = tools
        self._ledger = ledger
        self._schemas = schemas
        self._sandbox = sandbox
        self._deliveries = deliveries
        self._runs: set[asyncio.Task[Executed | None]] = set()

    async def __call__(self, caller: Principal, call: ToolCall) -> Executed:
        """Runs the tool, or gives the first answer of the step.

        A run goes on when its caller goes away, so that a retry of the step finds its answer.

        Raises:
            ToolNotFound: the tenant sees no such tool.
            ToolArgumentsInvalid: the arguments break the tool's input_schema.
            SandboxUnavailable: nothing here can run code apart from the machine.
            StaleAttempt: a newer attempt of the task has asked for the step.
            ToolOutcomeUnknown: the step was cut off and must not run twice.
            DependencyUnavailable: the run was cut off and may be repeated.
        """
        tool = await find_tool(self._tools, caller.tenant_id, call.tool_name)
        problem = await self._schemas.problem_of_arguments(tool.input_schema, call.arguments)
        if problem is not None:
            raise ToolArgumentsInvalid(tool.tool_name, problem)
        source, arguments = code_of(tool, call.arguments)
        program = Program(source, arguments, call.time_limit)
        asked = Execution(
            execution_id=new_id(),
            tool_name=tool.tool_name,
            username=caller.subject,
            arguments=call.arguments,
            effect=tool.effect,
            task_id=call.task_id,
            step_id=call.step_id,
            attempt=call.attempt,
            traceparent=current_call().traceparent,
        )
        while True:
            executed = await self._step(caller.tenant_id, asked, program)
            if executed is not None:
                return executed

    async def finish(self) -> None:
        """Returns when no run is under way."""
        while self._runs:
            await asyncio.wait(self._runs)

    async def _step(self, tenant_id: str, asked: Execution, program: Program) -> Executed | None:
        step, known = await self._ledger.begin(tenant_id, asked)
        match step:
            case Step.RUN:
                task = asyncio.create_task(self._run(tenant_id, known, program))
                self._runs.add(task)
                task.add_done_callback(self._ended)
                return await asyncio.shield(task)
            case Step.REPLAY:
                assert known.outcome is not None
                return Executed(known.execution_id, known.outcome, replayed=True)
            case Step.WAIT:
                await self._ledger.changed(tenant_id, known)
                return None
            case Step.STALE:
                raise StaleAttempt(asked.task_id, asked.attempt)
            case Step.UNKNOWN:
                raise ToolOutcomeUnknown(known.execution_id)

    async def _run(self, tenant_id: str, execution: Execution, program: Program) -> Executed | None:
        try:
            outcome = await self._sandbox.run(program)
        except SandboxUnavailable:
            await self._ledger.release(tenant_id, execution)
            raise
        except SandboxLost as error:
            _log.warning("sandbox_lost", execution_id=execution.execution_id, error=str(error))
            await self._ledger.cut_off(tenant_id, execution)
            if execution.effect.repeatable:
                raise DependencyUnavailable("sandbox") from error
            raise ToolOutcomeUnknown(execution.execution_id) from error
        except BaseException:
            await self._ledger.cut_off(tenant_id, execution)
            raise
        if await self._recorded(tenant_id, execution, outcome):
            if execution.logged:
                # Whoever hears of the end of its last tool ends its task, and what comes later is not in its log.
                await self._deliveries.told(execution.execution_id)
            return Executed(execution.execution_id, outcome, replayed=False)
        # The lease was lost and the step is another run's now: its answer counts.
        return None

    async def _recorded(self, tenant_id: str, execution: Execution, outcome: Outcome) -> bool:
        for pause in _RECORD_PAUSES:
            try:
                return await self._ledger.end(tenant_id, execution, outcome)
            except (Unavailable, Aborted):
                await asyncio.sleep(pause)
        return await self._ledger.end(tenant_id, execution, outcome)

    def _ended(self, task: asyncio.Task[Executed | None]) -> None:
        self._runs.discard(task)
        # A caller that went away does not ask for the error; it is logged once, here.
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("execution_failed", error=str(error))
