"""Runs a task of the kind agent.step: one agent does one step of a scenario. Safe to repeat after a crash at any point."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import cast

from services.agent.domain.active_agents import ActiveAgents
from services.agent.domain.agent import Agent
from services.agent.domain.documents import agent_from_document, step_from_document
from services.agent.domain.language_model import ChatMessage
from services.agent.domain.ports import LanguageModel, Memories, Tools
from services.agent.domain.scenario import Action, ModelAction, RecallAction, RememberAction, ToolAction
from services.agent.domain.work import Attempt, WorkFailed
from services.common.json_values import JsonObject, JsonValue

_MEMORIES = uuid.UUID("0d2c7f0f-9b1d-5a2b-8b7e-55a1c7e3f2a4")
_OUTPUT_TOKENS = 256
_RECALL_LIMIT = 5
_TEXT_CHARACTERS = 50_000


class RunStep:
    """Does a step's action for its agent."""

    def __init__(self, model: LanguageModel, tools: Tools, memories: Memories, active: ActiveAgents) -> None:
        self._model = model
        self._tools = tools
        self._memories = memories
        self._active = active

    async def __call__(self, tenant_id: str, attempt: Attempt) -> JsonObject:
        """The step's output, as ScenarioStep tells it for each action.

        Raises:
            WorkFailed: the tool failed (TOOL_FAILED), or the task is not one that a run made (STEP_INVALID).
            DomainError: a service did not answer, or refused.
        """
        work = _read(attempt.context)
        agent = work.agent
        with self._active.working((tenant_id, agent.agent_id), agent.agent_type):
            match work.action:
                case ModelAction() as action:
                    return await self._ask(agent, action, attempt)
                case ToolAction() as action:
                    return await self._execute(agent, action, attempt, work.step_id)
                case RememberAction() as action:
                    return await self._remember(agent, action, work.scenario_id)
                case RecallAction() as action:
                    return await self._recall(action, work.scenario_id)

    async def _ask(self, agent: Agent, action: ModelAction, attempt: Attempt) -> JsonObject:
        instructions = [ChatMessage("system", agent.instructions)] if agent.instructions else []
        completion = await self._model.complete(
            [*instructions, ChatMessage("user", action.prompt)],
            model=agent.model,
            max_output_tokens=action.max_output_tokens or _OUTPUT_TOKENS,
            timeout=attempt.remaining_seconds,
            say=attempt.put_out,
        )
        return {
            "text": completion.text,
            "provider": completion.provider,
            "model": completion.model,
            "input_tokens": completion.input_tokens,
            "output_tokens": completion.output_tokens,
        }

    async def _execute(self, agent: Agent, action: ToolAction, attempt: Attempt, step_id: str) -> JsonObject:
        tool_name = action.tool_name
        if tool_name not in agent.tools:
            raise WorkFailed("TOOL_NOT_ALLOWED", f"The agent {agent.agent_id!r} may not call the tool {tool_name!r}.")
        outcome = await self._tools.execute(
            tool_name,
            action.arguments,
            task_id=attempt.task_id,
            attempt=attempt.number,
            step_id=step_id,
            timeout=attempt.remaining_seconds,
        )
        if not outcome.success:
            # Not tried again: the ledger would give the same outcome.
            raise WorkFailed(
                "TOOL_FAILED", f"The tool {tool_name!r} failed: {outcome.error or outcome.output}"[:_TEXT_CHARACTERS]
            )
        return {
            "success": outcome.success,
            "output": outcome.output,
            "exit_code": outcome.exit_code,
            "result": outcome.result,
        }

    async def _remember(self, agent: Agent, action: RememberAction, scenario_id: str) -> JsonObject:
        owner = team_of(scenario_id)
        memory_ids: list[JsonValue] = []
        for content in action.contents:
            # From the text itself: a team that is told the same thing again, by a repeat or by a later run, remembers it once.
            request_id = str(uuid.uuid5(_MEMORIES, f"{owner}/{agent.agent_id}/{content}"))
            metadata: JsonObject = {"agent_id": agent.agent_id, "scenario_id": scenario_id}
            memory_ids.append(await self._memories.remember(content, owner, metadata, request_id))
        return {"memory_ids": memory_ids}

    async def _recall(self, action: RecallAction, scenario_id: str) -> JsonObject:
        found = await self._memories.recall(action.query, team_of(scenario_id), action.limit or _RECALL_LIMIT)
        return {"memories": [{"memory_id": it.memory_id, "content": it.content, "score": it.score} for it in found]}


def team_of(scenario_id: str) -> str:
    """The owner of what the agents of a scenario remember: they share it, and later runs find it again."""
    return f"scenario/{scenario_id}"


@dataclass(frozen=True, slots=True)
class _Work:
    agent: Agent
    scenario_id: str
    step_id: str
    action: Action


def _read(context: JsonObject) -> _Work:
    """The step's work; anyone may create a task of this kind, so nothing is taken for granted."""
    try:
        agent = agent_from_document(cast(JsonObject, context["agent"]))
        step = step_from_document({"agent_id": agent.agent_id, "needs": [], **context})
        return _Work(agent, str(context["scenario_id"]), step.step_id, step.action)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise WorkFailed(
            "STEP_INVALID", "The task's context is not that of a step; use POST /v1/scenarios/{scenario_id}:run."
        ) from error
