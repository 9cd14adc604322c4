"""What one check found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_NAMED = 20
"""problems that a check names; the others are counted."""


@dataclass
class DataFinding:
    """What one check found."""

    about: str
    rows: int = 0
    """rows that it looked at."""
    problems: list[str] = field(default_factory=list)
    """each names its task; at most MOST_NAMED."""
    wrong: int = 0
    """how many there are."""
    note: str = ""
    """what cannot be judged now, or is to be known."""

    def bad(self, text: str) -> None:
        """Counts a problem, and names it while there are few."""
        self.wrong += 1
        if len(self.problems) < MOST_NAMED:
            self.problems.append(text)


def short(items: Sequence[object]) -> str:
    """The first twelve, in one line."""
    text = ", ".join(map(str, items[:12]))
    return f"{text}{', …' if len(items) > 12 else ''}" or "none"
