"""What a dead letter is: a task that FAILED, kept apart to be inspected and replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

MOST_REPLAYS = 1000
"""dead letters that one call replays."""
MOST_DISMISSED = 10_000
"""dead letters that one call dismisses."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that failed."""

    task_id: str
    tenant_id: str
    queue: str
    kind: str
    reason: str
    attempts: int
    fail_time: datetime
    replay_task_id: str | None = None
    """the task that it was last replayed as."""
    replay_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class LetterPlace:
    """A place in a list of dead letters: everything before it was listed."""

    fail_time: datetime
    task_id: str


@dataclass(frozen=True, slots=True)
class LetterPage:
    """A part of a list of dead letters."""

    letters: Sequence[DeadLetter]
    next: LetterPlace | None
    """where the next part begins; None when this is the last."""


@dataclass(frozen=True, slots=True)
class Replays:
    """What a call that replays many came to."""

    replayed: Sequence[tuple[str, str]]
    """the failed task and its new one: the oldest first, but each behind those of them that it depends on."""
    left: int
    """how many more there are, counted up to a limit; 0 only when there are none."""
    failed_before: datetime
    """only what failed before this was meant, by the database's clock."""


def replay_request_id(task_id: str, request_id: str) -> str:
    """The request id of another replay of a task; longer than any that a caller may choose, so that none is in its way."""
    digest = hashlib.sha256(f"{task_id}\n{request_id}".encode()).hexdigest()
    return f"guildmesh.replay/{digest}"
