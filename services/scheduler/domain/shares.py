"""Fair sharing by slot-seconds: start-time fair queueing whose cost is the time that a task takes of a slot.

Each party has a tag: the slot-seconds that it was charged, divided by its weight. The one with the lowest tag is next. A task is
charged at its start by the usual length of its party's tasks, since what it will take is not known, and is made good as it runs
longer and when it ends. So what runs counts, not only what has ended: a tenant with long tasks does not take every slot before
the first of them has ended. A party that comes after it had nothing to do begins at the tag of whoever was served last: it is
served soon, and not until it has made up for the time in which it asked for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_ESTIMATE = 0.1
"""seconds of a task of a party of which nothing is known."""
_LEARN = 0.2
"""weight of the newest length in the usual one."""


@dataclass(slots=True, eq=False)
class Account:
    """What one party was charged."""

    weight: float = 1.0
    charged: float = 0.0
    """slot-seconds."""
    estimate: float = FIRST_ESTIMATE
    """usual seconds of a task."""

    @property
    def tag(self) -> float:
        """Its place in the order of service."""
        return self.charged / self.weight

    def charge(self, seconds: float) -> None:
        """Charges slot-seconds; less than 0 gives back."""
        self.charged += seconds

    def learn(self, seconds: float) -> None:
        """Takes note of how long a task took."""
        self.estimate += _LEARN * (seconds - self.estimate)

    def come_back(self, virtual_time: float) -> None:
        """Has something to do again, at the tag of whoever was served last."""
        self.charged = max(self.charged, virtual_time * self.weight)

    def weigh(self, weight: float) -> None:
        """Has another weight from now on, at the same tag."""
        self.charged *= weight / self.weight
        self.weight = weight
