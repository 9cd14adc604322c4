"""What the use cases need from outside; storage and adapters give it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from services.agent.domain.agent import Agent
from services.agent.domain.language_model import ChatMessage, Completion, Say
from services.agent.domain.scenario import Scenario
from services.agent.domain.work import EndedTask, NewTask, Recollection, ToolOutcome
from services.common.json_values import JsonObject

TaskT_co = TypeVar("TaskT_co", covariant=True)


class LanguageModel(Protocol):
    """A language model, behind which there may be several providers."""

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        model: str = "",
        max_output_tokens: int = 0,
        timeout: float | None = None,
        say: Say | None = None,
    ) -> Completion:
        """Answers a conversation.

        Args:
            messages: system messages first, then the conversation, oldest first; the newest is the question. What does not
                fit the model's context window is left out, oldest first.
            model: name of the model; empty for the provider's default.
            max_output_tokens: bound of the answer; 0 for the default.
            timeout: seconds the caller waits at most, or None.
            say: gets the answer piece by piece while it comes; together they are the text, but for white space around it.
                What has been said is never said again: an answer that breaks off is an error then.

        Raises:
            ModelUnavailable: no provider answers.
        """
        ...


class AgentRepository(Protocol):
    """The agents of a tenant."""

    async def add(self, tenant_id: str, agent: Agent) -> Agent:
        """Keeps a new agent and gives it with its time. MUST raise AgentAlreadyExists when the id is taken."""
        ...

    async def get(self, tenant_id: str, agent_id: str) -> Agent | None:
        """The agent, or None when the tenant has none of this id."""
        ...

    async def get_many(self, tenant_id: str, agent_ids: Collection[str]) -> dict[str, Agent]:
        """Those of the agents that exist, by id."""
        ...

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Agent]:
        """At most `limit` agents whose id is larger than `after`, ordered by id."""
        ...


class ScenarioRepository(Protocol):
    """The scenarios of a tenant."""

    async def add(self, tenant_id: str, scenario: Scenario) -> Scenario:
        """Keeps a new scenario and gives it with its time. MUST raise ScenarioAlreadyExists when the id is taken."""
        ...

    async def get(self, tenant_id: str, scenario_id: str) -> Scenario | None:
        """The scenario, or None when the tenant has none of this id."""
        ...

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Scenario]:
        """At most `limit` scenarios whose id is larger than `after`, ordered by id."""
        ...


class Conversations(Protocol):
    """The conversations of the current caller."""

    async def history(self, conversation_id: str, limit: int) -> Sequence[ChatMessage]:
        """The newest `limit` messages, oldest first. MUST raise ConversationNotFound when the caller has no such one."""
        ...

    async def append(self, conversation_id: str | None, title: str, messages: Sequence[tuple[ChatMessage, JsonObject]]) -> str:
        """Adds messages with their metadata, all or none, and gives the conversation's id; None starts one with `title`.

        MUST raise ConversationNotFound when the caller has no such conversation.
        """
        ...


class Memories(Protocol):
    """What agents remember, in the tenant of the current caller."""

    async def remember(self, content: str, owner: str, metadata: JsonObject, request_id: str) -> str:
        """Keeps a text and gives the memory's id. A repeat with the same request_id MUST give the first answer."""
        ...

    async def recall(self, query: str, owner: str, limit: int) -> Sequence[Recollection]:
        """The memories of `owner` nearest in meaning to the query, best first."""
        ...


class Tools(Protocol):
    """Tools, for the current caller."""

    async def execute(
        self, tool_name: str, arguments: JsonObject, *, task_id: str, attempt: int, step_id: str, timeout: float | None
    ) -> ToolOutcome:
        """Executes a tool once for (task_id, step_id): a repeat MUST give the first outcome.

        Raises:
            DomainError: the call itself was refused, such as an unknown tool.
        """
        ...


class Runs(Protocol[TaskT_co]):
    """Starts tasks for the current caller, and gives them as the scheduler tells them."""

    async def start(self, task: NewTask, request_id: str) -> TaskT_co:
        """Creates a task; a repeat with the same non-empty request_id and the same task MUST give the first answer."""
        ...


class Subtasks(Protocol):
    """The steps of a run, as tasks. Every method goes on through an outage of the scheduler until it is cancelled."""

    async def create(self, task: NewTask, request_id: str, parent_attempt: int) -> str:
        """Creates a subtask and gives its id; a repeat with the same request_id MUST give the first answer."""
        ...

    async def wait(self, task_id: str) -> EndedTask:
        """Waits until the task has ended."""
        ...

    async def cancel(self, task_id: str, cause: str) -> None:
        """Cancels the task; does nothing when it has ended."""
        ...
