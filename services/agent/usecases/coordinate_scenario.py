"""Runs a task of the kind agent.scenario: makes each step a subtask when what it needs is completed.

Nothing is kept in the coordinator. Each step's request_id is made from the run and the step, and what a step is given is made
only from the run's inputs and from completed steps; so a coordinator that starts again after a crash asks for the same
subtasks, is given those that exist, and goes on.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import cast

from services.agent.domain.agent import Agent
from services.agent.domain.documents import (
    action_to_document,
    agent_from_document,
    agent_to_document,
    scenario_from_document,
)
from services.agent.domain.errors import ScenarioInvalid
from services.agent.domain.plan import check_plan
from services.agent.domain.ports import Subtasks
from services.agent.domain.references import InvalidReference, render
from services.agent.domain.render_action import render_action
from services.agent.domain.scenario import Scenario, Step
from services.agent.domain.work import RENDERED_LIMIT, RUN_STEP, Attempt, EndedTask, NewTask, WorkFailed
from services.common.errors import DomainError
from services.common.json_values import JsonObject, JsonValue, size_of

_STEPS = uuid.UUID("5b9f2f0e-4a39-5d52-9a0b-0b7c1c0a9d11")


def step_request_id(run_task_id: str, step_id: str) -> str:
    """The request_id of a step's subtask: the same in every attempt of the run, and no longer than 64 characters."""
    return str(uuid.uuid5(_STEPS, f"{run_task_id}/{step_id}"))


class CoordinateScenario:
    """Runs the steps of a scenario as subtasks, as many at once as their needs allow."""

    def __init__(self, subtasks: Subtasks) -> None:
        self._subtasks = subtasks

    async def __call__(self, attempt: Attempt) -> JsonObject:
        """The result {success, scenario_id, result, steps, model_calls, input_tokens, output_tokens}.

        Raises:
            WorkFailed: a step failed (STEP_FAILED) or was cancelled (STEP_CANCELLED), a reference stands for nothing
                (REFERENCE_INVALID), a step or the result would be too large (STEP_TOO_LARGE, RESULT_TOO_LARGE), or the task
                is not one that a run made (RUN_INVALID).
        """
        run = _Run(self._subtasks, attempt)
        return await run.finish()


class _Run:
    def __init__(self, subtasks: Subtasks, attempt: Attempt) -> None:
        self._subtasks = subtasks
        self._attempt = attempt
        self._scenario, self._agents, self._inputs = _read(attempt.context)
        self._outputs: JsonObject = {}
        self._task_ids: dict[str, str] = {}

    async def finish(self) -> JsonObject:
        waiting = list(self._scenario.steps)
        running: dict[asyncio.Task[EndedTask], Step] = {}
        try:
            while waiting or running:
                ready = [step for step in waiting if all(need in self._outputs for need in step.needs)]
                for step in ready:
                    waiting.remove(step)
                    running[asyncio.create_task(self._run_step(step))] = step
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    step = running.pop(ended)
                    self._outputs[step.step_id] = _output(step, await ended)
                self._attempt.report_progress(len(self._outputs) / len(self._scenario.steps))
        except WorkFailed:
            await self._cancel_rest(running)
            raise
        finally:
            for watcher in running:
                watcher.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return self._result()

    async def _run_step(self, step: Step) -> EndedTask:
        agent = self._agents[step.agent_id]
        context: JsonObject = {
            "scenario_id": self._scenario.scenario_id,
            "step_id": step.step_id,
            "agent": agent_to_document(agent),
            step.action_name: self._rendered(step),
        }
        size = size_of(context)
        if size > RENDERED_LIMIT:
            raise WorkFailed(
                "STEP_TOO_LARGE",
                f"The step {step.step_id!r} would be given {size:,} bytes, and may be given {RENDERED_LIMIT:,}; refer to less.",
            )
        task = NewTask(
            description=f"{agent.display_name or agent.agent_id}: {step.step_id} of {self._scenario.scenario_id}",
            kind=RUN_STEP,
            context=context,
            queue=agent.queue,
            # The whole run's bound: a step's payload must be the same in every attempt, whatever time is left then. The end of
            # the run ends its steps too.
            timeout_seconds=self._attempt.timeout_seconds,
            parent_task_id=self._attempt.task_id,
            labels={"scenario_id": self._scenario.scenario_id, "step_id": step.step_id, "agent_id": agent.agent_id},
        )
        request_id = step_request_id(self._attempt.task_id, step.step_id)
        try:
            task_id = await self._subtasks.create(task, request_id, self._attempt.number)
        except DomainError as error:
            raise WorkFailed(error.reason, f"The step {step.step_id!r} could not start: {error.message}") from error
        self._task_ids[step.step_id] = task_id
        return await self._subtasks.wait(task_id)

    def _rendered(self, step: Step) -> JsonObject:
        try:
            return action_to_document(render_action(step.action, self._inputs, self._outputs))
        except InvalidReference as error:
            raise WorkFailed("REFERENCE_INVALID", f"In the step {step.step_id!r}: {error}") from error

    async def _cancel_rest(self, running: dict[asyncio.Task[EndedTask], Step]) -> None:
        for watcher in running:
            watcher.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for step in running.values():
            task_id = self._task_ids.get(step.step_id)
            if task_id is not None:
                await self._subtasks.cancel(task_id, "another step of the run failed")

    def _result(self) -> JsonObject:
        needed = {need for step in self._scenario.steps for need in step.needs}
        last = {step.step_id: self._outputs[step.step_id] for step in self._scenario.steps if step.step_id not in needed}
        try:
            result: JsonValue = render(self._scenario.result, self._inputs, self._outputs)
        except InvalidReference as error:
            raise WorkFailed("REFERENCE_INVALID", f"In the result: {error}") from error
        models = [self._outputs[step.step_id] for step in self._scenario.steps if step.action_name == "model"]
        report: JsonObject = {
            "success": True,
            "scenario_id": self._scenario.scenario_id,
            # Without a result of its own, a scenario's result is what its last steps gave.
            "result": last if self._scenario.result is None else result,
            "steps": {
                step.step_id: {
                    "task_id": self._task_ids[step.step_id],
                    "agent_id": step.agent_id,
                    "action": step.action_name,
                }
                for step in self._scenario.steps
            },
            "model_calls": len(models),
            "input_tokens": _sum(models, "input_tokens"),
            "output_tokens": _sum(models, "output_tokens"),
        }
        size = size_of(report)
        if size > RENDERED_LIMIT:
            raise WorkFailed(
                "RESULT_TOO_LARGE",
                f"The result would be {size:,} bytes, and a run's is {RENDERED_LIMIT:,} at most; refer to less.",
            )
        return report


def _read(context: JsonObject) -> tuple[Scenario, dict[str, Agent], JsonObject]:
    """The scenario, agents and inputs of a run; anyone may create a task of this kind, so nothing is taken for granted."""
    try:
        scenario = scenario_from_document(cast(JsonObject, context["scenario"]))
        agents = {
            agent_id: agent_from_document(cast(JsonObject, document))
            for agent_id, document in cast(JsonObject, context["agents"]).items()
        }
        inputs = dict(cast(JsonObject, context["inputs"]))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise WorkFailed(
            "RUN_INVALID", "The task's context is not that of a run; use POST /v1/scenarios/{scenario_id}:run."
        ) from error
    try:
        check_plan(scenario, agents)
    except ScenarioInvalid as error:
        raise WorkFailed("RUN_INVALID", error.message) from error
    return scenario, agents, inputs


def _output(step: Step, ended: EndedTask) -> JsonValue:
    if ended.status == "completed":
        return ended.result
    if ended.status == "cancelled":
        raise WorkFailed("STEP_CANCELLED", f"The step {step.step_id!r} of the agent {step.agent_id!r} was cancelled.")
    raise WorkFailed(
        "STEP_FAILED",
        f"The step {step.step_id!r} of the agent {step.agent_id!r} failed: {ended.error_reason}: {ended.error_message}",
    )


def _sum(outputs: list[JsonValue], name: str) -> int:
    return sum(int(cast(float, cast(JsonObject, output)[name])) for output in outputs)
