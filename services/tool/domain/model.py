"""Tools, and what is known of their executions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import TypeAlias

from services.common.ids import is_id

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

DEFAULT_TIME_LIMIT = 30.0
"""Seconds a run may take when the caller names no timeout (requirement row 4)."""
MEMORY_LIMIT = 512 * 1024 * 1024
"""Bytes of memory of a run (requirement row 4)."""
OUTPUT_LIMIT = 1024 * 1024
"""Bytes of UTF-8 that a run may print, and of compact JSON that it may give as its result; the rest of an output is cut off."""
EXIT_TIMEOUT = 124
EXIT_OUT_OF_MEMORY = 137


class Effect(StrEnum):
    """What a repeat of an execution would do."""

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    ONCE = "once"

    @property
    def repeatable(self) -> bool:
        """Whether an execution that was cut off may run again by itself."""
        return self is not Effect.ONCE


@dataclass(frozen=True, slots=True)
class Tool:
    """Something an agent can do."""

    tool_name: str
    description: str
    input_schema: Mapping[str, JSON]
    effect: Effect
    source: str
    """Python that finds its arguments in `arguments` and assigns `result`; empty for a built-in."""
    built_in: bool = False
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """Code to run in a sandbox."""

    source: str
    arguments: JSON
    time_limit: float
    """seconds after which the code is killed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run (requirement row 4)."""

    exit_code: int
    output: str
    error: str
    """empty on success."""
    result: JSON
    seconds: float

    @property
    def success(self) -> bool:
        """Whether the run ended with exit code 0."""
        return self.exit_code == 0


class RunOutcome(Enum):
    """What came of a run, as it is told to others."""

    SUCCEEDED = auto()
    FAILED = auto()
    UNKNOWN = auto()
    """it was cut off; whether it took effect is not known."""
    NOT_RUN = auto()
    """it never began."""


class UsageState(StrEnum):
    """Where an execution is."""

    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Execution:
    """A row of the effect ledger, which is also the record of use (requirement row 16)."""

    execution_id: str
    tool_name: str
    username: str
    arguments: Mapping[str, JSON]
    effect: Effect
    task_id: str = ""
    step_id: str = ""
    attempt: int = 0
    """highest attempt of the task that has asked for this step."""
    state: UsageState = UsageState.RUNNING
    outcome: Outcome | None = None
    create_time: datetime | None = field(default=None, compare=False)
    run: int = 1
    """one that was cut off may run again: 1..N."""
    begin_time: datetime | None = field(default=None, compare=False)
    """when the run was written down."""
    traceparent: str = field(default="", compare=False)
    """W3C trace context of the run's call, or empty."""
    log_refusal: str = field(default="", compare=False)
    """why an event of it is not in its task's log, such as TASK_ENDED; empty when none was refused."""

    @property
    def logged(self) -> bool:
        """Whether its events belong into the log of a task: an attempt of one has asked for it."""
        return self.attempt > 0 and is_id(self.task_id)

    @property
    def keyed(self) -> bool:
        """Whether a repeat finds this execution again: it belongs to a step of a task."""
        return bool(self.task_id and self.step_id)
