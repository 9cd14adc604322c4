"""Tasks as the agent service sees them: what a worker is given, what it asks of the scheduler, how it may fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from services.common.json_values import JsonObject, JsonValue

ANSWER_TASK = "agent.task"
"""kind of a task that an agent answers: what POST /task creates."""
ANSWER_FIELDS = frozenset({"response", "provider", "model", "input_tokens", "output_tokens"})
"""what the result of such a task has."""
RUN_SCENARIO = "agent.scenario"
"""kind of the run of a scenario: it coordinates its steps."""
RUN_STEP = "agent.step"
"""kind of one step of a scenario."""

CONTEXT_LIMIT = 1_048_576
"""bytes of a task's context as compact JSON (requirement row 3): what is larger is a payload."""
RENDERED_LIMIT = 32 << 20
"""bytes that a run may put together for a step, or as its result: references repeat what they refer to."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to create."""

    description: str
    kind: str
    context: JsonObject
    queue: str = ""
    timeout_seconds: int = 300
    """bound of the run, 10 to 3,600."""
    max_attempts: int = 5
    parent_task_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndedTask:
    """What became of a task."""

    task_id: str
    status: str
    """"completed", "failed" or "cancelled"."""
    result: JsonValue = None
    error_reason: str = ""
    error_message: str = ""
    result_omitted: bool = False
    """whether it has a result that is not here: too large to be handed over, or no longer kept."""


async def _put_out_nothing(_text: str) -> None:
    """For an attempt that nobody watches."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a task that this worker runs."""

    task_id: str
    number: int
    """the fencing token of everything done for the attempt."""
    description: str
    context: JsonObject
    timeout_seconds: int
    """bound of the whole run, the same in every attempt."""
    remaining_seconds: float
    """how long the run may still take."""
    report_progress: Callable[[float], None] = lambda share: None
    """tells how far the attempt is, from 0 to 1."""
    dependencies: Mapping[str, EndedTask] = field(default_factory=dict)
    """the ends of the tasks that it waited for, by name."""
    put_out: Callable[[str], Awaitable[None]] = _put_out_nothing
    """takes text that the attempt puts out: whoever watches the task sees it while it comes."""


class WorkFailed(Exception):
    """An attempt ends without a result.

    Attributes:
        reason: machine-readable word of the task's error.
        message: for people.
        retryable: another attempt may succeed.
    """

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What came of executing a tool (requirement row 4)."""

    success: bool
    output: str
    exit_code: int
    error: str
    result: JsonValue


@dataclass(frozen=True, slots=True)
class Recollection:
    """A memory that was found."""

    memory_id: str
    content: str
    score: float
    """cosine similarity to the query, from -1 to 1."""
