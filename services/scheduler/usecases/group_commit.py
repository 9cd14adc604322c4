"""Gathers by load: what arrives while a commit is under way goes out together with the next (no timer adds to a lone call)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from services.common.errors import DomainError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)

_WORTH_A_COMMIT = 100


class GroupCommit(Generic[Item, Answer]):
    """One commit at a time, or a few abreast; each item gets its own answer or its own error.

    A batch that fails for a reason of its own (not because the database is away) is halved until only the bad item fails. The
    commit runs in a task of its own, so a caller that gives up changes nothing for the others.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | DomainError]]],
        *,
        most_items: int = 1000,
        most_weight: int = 16 << 20,
        weigh: Callable[[Item], int] = lambda _: 0,
        abreast: int = 1,
    ) -> None:
        """Gathers for `flush`, which gives one answer for each item, in order; the weight is in bytes.

        With `abreast` commits at once, which is for items whose order does not matter, the database works on one batch while
        this process makes the next. Another is begun only for enough items to be worth a commit.
        """
        self._flush = flush
        self._most_items = most_items
        self._most_weight = most_weight
        self._weigh = weigh
        self._waiting: deque[_Group[Item, Answer]] = deque()
        self._waiting_items = 0
        self._abreast = abreast
        self._running: set[asyncio.Task[None]] = set()

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """Puts an item in line; the future has its answer once it is durable."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(answers: Sequence[Answer | Exception]) -> None:
            if future.done():
                return
            answer = answers[0]
            if isinstance(answer, Exception):
                future.set_exception(answer)
                # A caller that has gone does not fetch it.
                future.exception()
            else:
                future.set_result(answer)

        self._enqueue([item], answered)
        return future

    def submit_all(self, items: Sequence[Item]) -> asyncio.Future[Sequence[Answer | Exception]]:
        """Puts items in line that one caller waits for; the future has an answer or an error for each, in order."""
        future: asyncio.Future[Sequence[Answer | Exception]] = asyncio.get_running_loop().create_future()
        self._enqueue(items, lambda answers: None if future.done() else future.set_result(answers))
        return future

    async def drained(self) -> None:
        """Waits until nothing is in line or under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _enqueue(self, items: Sequence[Item], answered: Callable[[Sequence[Answer | Exception]], None]) -> None:
        self._waiting.append(_Group(items, sum(map(self._weigh, items)), answered))
        self._waiting_items += len(items)
        if not self._running or (len(self._running) < self._abreast and self._waiting_items >= _WORTH_A_COMMIT):
            running = asyncio.create_task(self._run())
            self._running.add(running)

    async def _run(self) -> None:
        try:
            # Whoever is ready to run now may still join the first batch.
            await asyncio.sleep(0)
            while self._waiting:
                groups = self._next()
                answers = await self._commit([item for group in groups for item in group.items])
                place = 0
                for group in groups:
                    group.answered(answers[place : place + len(group.items)])
                    place += len(group.items)
        finally:
            # Here and not when the task is done: what is put in line between the two would find nobody who takes it.
            self._running.discard(asyncio.current_task())

    def _next(self) -> list[_Group[Item, Answer]]:
        """The groups of the next batch; one that is larger than a batch may be goes alone."""
        groups = [self._waiting.popleft()]
        number, weight = len(groups[0].items), groups[0].weight
        while self._waiting:
            number += len(self._waiting[0].items)
            weight += self._waiting[0].weight
            if number > self._most_items or weight > self._most_weight:
                break
            groups.append(self._waiting.popleft())
        self._waiting_items -= sum(len(group.items) for group in groups)
        return groups

    async def _commit(self, items: Sequence[Item]) -> list[Answer | Exception]:
        try:
            return list(await self._flush(items))
        except DomainError as error:
            return [error] * len(items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            log.warning("batch_halved", items=len(items), error=repr(error))
            half = len(items) // 2
            return await self._commit(items[:half]) + await self._commit(items[half:])


@dataclass(slots=True)
class _Group(Generic[Item, Answer]):
    """What one caller put in line."""

    items: Sequence[Item]
    weight: int
    answered: Callable[[Sequence[Answer | Exception]], None]
