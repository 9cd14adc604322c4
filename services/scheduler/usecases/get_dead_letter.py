"""GetDeadLetter: a dead letter of the caller's tenant."""

from __future__ import annotations

from services.common.ids import is_id
from services.scheduler.domain.dead_letter import DeadLetter
from services.scheduler.domain.errors import DeadLetterNotFound
from services.scheduler.domain.ports import DeadLetterStore


class GetDeadLetter:
    """Gives one dead letter."""

    def __init__(self, store: DeadLetterStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, task_id: str) -> DeadLetter:
        """The dead letter of a task; raises DeadLetterNotFound."""
        letter = await self._store.get(tenant_id, task_id) if is_id(task_id) else None
        if letter is None:
            raise DeadLetterNotFound(task_id)
        return letter
