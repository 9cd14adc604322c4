"""How one run ended, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.evidence import Problem

MOST_TOLD = 20


@dataclass
class Outcome:
    """How one run ended."""

    suite: str
    cell: str
    seed: int
    problems: list[str] = field(default_factory=list)
    size: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing was wrong, and something was judged."""
        return not self.problems and self.size.get("tasks", 0) > 0

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {**asdict(self), "good": self.good}


def told(problems: Sequence[Problem], surprises: Sequence[str]) -> list[str]:
    """The first of what is wrong, in words."""
    return [str(problem) for problem in problems[:MOST_TOLD]] + [text[:600] for text in surprises[:MOST_TOLD]]
