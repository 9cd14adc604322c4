"""In-memory parts of the agent service, for tests of its use cases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.agent.domain.errors import ConversationNotFound, ModelUnavailable
from services.agent.domain.language_model import ChatMessage, Completion, Say
from services.agent.domain.work import EndedTask, NewTask, Recollection, ToolOutcome
from services.common.json_values import JsonObject


class InMemoryModel:
    """A language model that repeats what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[ChatMessage]] = []
        self.unavailable = False

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        model: str = "",
        max_output_tokens: int = 0,
        timeout: float | None = None,
        say: Say | None = None,
    ) -> Completion:
        if self.unavailable:
            raise ModelUnavailable("memory")
        self.asked.append(list(messages))
        if say is not None:
            await say(f"You said: {messages[-1].content}")
        return Completion(f"You said: {messages[-1].content}", "memory", model or "parrot", 10, 4)


class InMemoryConversations:
    """Conversations in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, list[ChatMessage]] = {}
        self.titles: dict[str, str] = {}

    async def history(self, conversation_id: str, limit: int) -> Sequence[ChatMessage]:
        if conversation_id not in self.kept:
            raise ConversationNotFound(conversation_id)
        return self.kept[conversation_id][-limit:]

    async def append(self, conversation_id: str | None, title: str, messages: Sequence[tuple[ChatMessage, JsonObject]]) -> str:
        if conversation_id is None:
            conversation_id = f"conversation-{len(self.kept) + 1}"
            self.kept[conversation_id] = []
            self.titles[conversation_id] = title
        if conversation_id not in self.kept:
            raise ConversationNotFound(conversation_id)
        self.kept[conversation_id].extend(message for message, _ in messages)
        return conversation_id


class InMemoryMemories:
    """Memories by request id; recalls all of an owner."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, str]] = {}

    async def remember(self, content: str, owner: str, metadata: JsonObject, request_id: str) -> str:
        self.kept.setdefault(request_id, (owner, content))
        return f"memory-{request_id}"

    async def recall(self, query: str, owner: str, limit: int) -> Sequence[Recollection]:
        found = [(key, content) for key, (whose, content) in self.kept.items() if whose == owner]
        return [Recollection(f"memory-{key}", content, 0.5) for key, content in found[:limit]]


@dataclass
class InMemoryTools:
    """A tool that answers as it is told; each ledger key is executed once."""

    outcome: ToolOutcome = field(default_factory=lambda: ToolOutcome(True, "", 0, "", {"total": 3}))
    ledger: dict[tuple[str, str], JsonObject] = field(default_factory=dict)

    async def execute(
        self, tool_name: str, arguments: JsonObject, *, task_id: str, attempt: int, step_id: str, timeout: float | None
    ) -> ToolOutcome:
        self.ledger.setdefault((task_id, step_id), arguments)
        return self.outcome


class InMemorySubtasks:
    """A scheduler with one worker: `work` makes the end of each subtask."""

    def __init__(self, work: Callable[[NewTask], Awaitable[EndedTask]]) -> None:
        self.work = work
        self.created: dict[str, NewTask] = {}
        """by request id, in order."""
        self.cancelled: list[str] = []
        self._ends: dict[str, asyncio.Future[EndedTask]] = {}

    async def create(self, task: NewTask, request_id: str, parent_attempt: int) -> str:
        known = self.created.setdefault(request_id, task)
        assert known == task, "the same request id with another payload"
        if request_id not in self._ends:
            self._ends[request_id] = asyncio.ensure_future(self.work(task))
        return request_id

    async def wait(self, task_id: str) -> EndedTask:
        return await asyncio.shield(self._ends[task_id])

    async def cancel(self, task_id: str, cause: str) -> None:
        self.cancelled.append(self.created[task_id].labels["step_id"])
        self._ends[task_id].cancel()
