"""A task that another one waits for, and what follows from its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from services.scheduler.domain.task import State

DEPENDENCY_FAILED = "DEPENDENCY_FAILED"
MOST_DEPENDENCIES = 100
"""of one task."""


class FailurePolicy(IntEnum):
    """What becomes of a task whose dependency does not complete; the numbers are those of DependencyFailurePolicy."""

    FAIL = 1
    CANCEL = 2
    CONTINUE = 3


@dataclass(frozen=True, slots=True)
class Dependency:
    """A task that another one waits for."""

    task_id: str
    name: str
    """by which the worker finds its result; unique among the dependencies of a task."""
    policy: FailurePolicy = FailurePolicy.FAIL

    def allows(self, state: State) -> bool:
        """Whether the dependant may go on after the dependency has ended in `state`."""
        return state is State.COMPLETED or self.policy is FailurePolicy.CONTINUE

    def told(self, state: State, reason: str | None) -> str:
        """Why the dependant may not go on, for people."""
        named = f"{self.name!r} ({self.task_id})" if self.name != self.task_id else self.task_id
        return f"The dependency {named} {'was cancelled' if state is State.CANCELLED else f'failed with {reason}'}."


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a dependency has ended, as its dependant's worker is told."""

    task_id: str
    name: str
    state: State
    result: bytes | None = None
    """google.protobuf.Value, serialized; None when there is none, or there was no room for it."""
    error_reason: str | None = None
    error_message: str | None = None
    omitted: bool = False
    """whether there is a result that is not here."""


def dependencies_first(task_ids: Iterable[str], needs: Mapping[str, Iterable[str]]) -> list[str]:
    """These tasks in their order, but each behind those of them that it needs, in `needs`, which has no cycle."""
    wanted = dict.fromkeys(task_ids)
    ordered: dict[str, None] = {}
    for first in wanted:
        path = [first]
        while path:
            needed = [each for each in needs.get(path[-1], ()) if each in wanted and each not in ordered]
            if needed:
                path += needed[::-1]
            else:
                ordered[path.pop()] = None
    return list(ordered)
