"""Gathers by load: what arrives while a commit is under way goes out together with the next (no timer adds to a lone call)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from services.common.errors import DomainError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class GroupCommit(Generic[Item, Answer]):
    """One commit at a time; each caller gets its own answer or its own error.

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
    ) -> None:
        """Gathers for `flush`, which gives one answer for each item, in order; the weight is in bytes."""
        self._flush = flush
        self._most_items = most_items
        self._most_weight = most_weight
        self._weigh = weigh
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """Puts an item in line; the future has its answer once it is durable."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return future

    async def drained(self) -> None:
        """Waits until nothing is in line or under way."""
        while self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        try:
            # Whoever is ready to run now may still join the first batch.
            await asyncio.sleep(0)
            while self._waiting:
                await self._commit(self._next())
        finally:
            self._running = None

    def _next(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        weight = 0
        while self._waiting and len(batch) < self._most_items:
            weight += self._weigh(self._waiting[0][0])
            if batch and weight > self._most_weight:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _commit(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._flush([item for item, _ in batch])
        except DomainError as error:
            for _, future in batch:
                _settle(future, error)
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error)
                return
            log.warning("batch_halved", items=len(batch), error=repr(error))
            await self._commit(batch[: len(batch) // 2])
            await self._commit(batch[len(batch) // 2 :])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
        # A caller that has gone does not fetch it.
        future.exception()
    else:
        future.set_result(answer)
