"""DeleteDeadLetters: dismisses dead letters, whose tasks stay."""

from __future__ import annotations

from services.scheduler.domain.dead_letter import MOST_DISMISSED
from services.scheduler.domain.dead_letter_filter import Conditions
from services.scheduler.domain.ports import DeadLetterStore
from services.scheduler.usecases.conflicts import past_conflicts


class DeleteDeadLetters:
    """Dismisses the dead letters of a queue."""

    def __init__(self, store: DeadLetterStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, queue: str, wanted: Conditions) -> tuple[int, int]:
        """Dismisses as many as a call may, the oldest first; gives how many, and how many are left."""
        return await past_conflicts(lambda: self._store.dismiss(tenant_id, queue, wanted, MOST_DISMISSED))
