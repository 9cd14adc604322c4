"""ReplayDeadLetters: creates tasks like many that failed, each once."""

from __future__ import annotations

from datetime import datetime

from services.scheduler.domain.dead_letter import MOST_REPLAYS, Replays
from services.scheduler.domain.dead_letter_filter import Conditions
from services.scheduler.domain.ports import TaskReplayer
from services.scheduler.usecases.conflicts import past_conflicts


class ReplayDeadLetters:
    """Replays the dead letters of a queue."""

    def __init__(self, replayer: TaskReplayer) -> None:
        self._replayer = replayer

    async def execute(
        self, tenant_id: str, queue: str, wanted: Conditions, failed_before: datetime | None, limit: int, subject: str
    ) -> Replays:
        """Replays at most `limit` (0 for as many as a call may) that were not; see TaskReplayer. Raises QueueNotFound."""
        most = limit or MOST_REPLAYS
        return await past_conflicts(lambda: self._replayer.replay_many(tenant_id, queue, wanted, failed_before, most, subject))
