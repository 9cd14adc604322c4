"""Which agents are active: the metric agent_active_count{agent_type} (requirement row 9)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

AgentKey = tuple[str, str]
"""tenant and agent id."""


@dataclass(slots=True)
class _Activity:
    agent_type: str
    running: int
    last_end: float


class ActiveAgents:
    """Counts the agents that work now, or did within the last `linger_seconds`.

    A step often takes less time than passes between two scrapes; an agent that only counted while its step runs would hardly
    ever be seen.
    """

    def __init__(
        self,
        publish: Callable[[str, int], None],
        linger_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts with none.

        Args:
            publish: takes an agent type and its count whenever it may have changed.
            linger_seconds: how long an agent counts after its last step.
            clock: monotonic seconds.
        """
        self._publish = publish
        self._linger = linger_seconds
        self._clock = clock
        self._agents: dict[AgentKey, _Activity] = {}
        self._published: set[str] = set()

    @contextmanager
    def working(self, key: AgentKey, agent_type: str) -> Iterator[None]:
        """The agent works for the length of the block."""
        activity = self._agents.setdefault(key, _Activity(agent_type, 0, self._clock()))
        activity.agent_type = agent_type
        activity.running += 1
        self.refresh()
        try:
            yield
        finally:
            activity.running -= 1
            activity.last_end = self._clock()
            self.refresh()

    def refresh(self) -> None:
        """Forgets agents that have been idle for long, and publishes the counts."""
        now = self._clock()
        for key, activity in list(self._agents.items()):
            if not activity.running and now - activity.last_end >= self._linger:
                del self._agents[key]
        counts = Counter(activity.agent_type for activity in self._agents.values())
        for agent_type in self._published | set(counts):
            self._publish(agent_type, counts[agent_type])
        self._published |= set(counts)
