"""AppendEvents: numbers events of other services among those of their tasks."""

from __future__ import annotations

from collections.abc import Sequence

from services.scheduler.domain.told import Told
from services.scheduler.domain.worker import Refusal
from services.scheduler.usecases.group_commit import GroupCommit


class AppendEvents:
    """Gathers what comes while a commit is under way into the next."""

    def __init__(self, commits: GroupCommit[Told, int | Refusal]) -> None:
        self._commits = commits

    async def execute(self, events: Sequence[Told]) -> Sequence[int | Refusal]:
        """The number of each event, also of one that is there already, or why it has none.

        Raises:
            DomainError: nothing is known of any; they are to be told again.
        """
        answers: list[int | Refusal] = []
        for answer in await self._commits.submit_all(events) if events else ():
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    async def drained(self) -> None:
        """Waits until nothing is under way."""
        await self._commits.drained()
