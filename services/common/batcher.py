"""Gathers items of many callers into batches (requirement row 7), each caller given its own result or its own error.

Two ways to use it. With `max_seconds` 0, load alone makes the batches: an idle batcher handles an item at once, and what arrives
meanwhile goes out together next; nobody ever waits for a timer. With more, a batch leaves at `max_items` or when its first item
has waited `max_seconds`, whichever comes first.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Handler = Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]]
"""Handles a batch: one result per item, in order; an exception as a result is raised to that item's caller alone."""


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    item: T
    since: float
    future: asyncio.Future[R]


class Batcher(Generic[T, R]):
    """Runs one batch at a time over a handler.

    When the handler itself raises, every caller of the batch gets that error; with `bisect` the batch is halved and tried again
    until only the items that fail alone do, which is right only for a handler that may be repeated.

    Args:
        handle: handles a batch.
        max_items: most items in a batch; the plan's 100, in production 50.
        max_seconds: longest that an item waits for others; the plan's 1.0, in production 0.5; 0 for never.
        bisect: whether a failed batch is tried again in halves.
    """

    def __init__(self, handle: Handler[T, R], *, max_items: int = 100, max_seconds: float = 1.0, bisect: bool = False) -> None:
        if max_items < 1 or max_seconds < 0:
            raise ValueError("max_items must be at least 1 and max_seconds at least 0")
        self._handle = handle
        self._max_items = max_items
        self._max_seconds = max_seconds
        self._bisect = bisect
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._full = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, item: T) -> R:
        """The result of one item.

        A caller that is cancelled takes its item out, unless its batch is already being handled; the others go on.

        Raises:
            RuntimeError: the batcher is closed.
            Exception: what the handler gave for this item, or raised for its batch.
        """
        if self._closed:
            raise RuntimeError("the batcher is closed")
        loop = asyncio.get_running_loop()
        entry: _Waiting[T, R] = _Waiting(item, loop.time(), loop.create_future())
        self._waiting.append(entry)
        if len(self._waiting) >= self._max_items:
            self._full.set()
        if self._runner is None or self._runner.done():
            # In an empty context: a batch belongs to no one caller, and must not carry the identity of the first.
            self._runner = loop.create_task(self._run(), context=contextvars.Context())
        return await entry.future

    async def aclose(self) -> None:
        """Takes no more items, hands out what is waiting without delay, and returns when all is handled."""
        self._closed = True
        self._full.set()
        if self._runner is not None:
            await self._runner

    async def _run(self) -> None:
        while self._waiting:
            await self._gather()
            batch: list[_Waiting[T, R]] = []
            while self._waiting and len(batch) < self._max_items:
                entry = self._waiting.popleft()
                if not entry.future.done():
                    batch.append(entry)
            if len(self._waiting) < self._max_items and not self._closed:
                self._full.clear()
            try:
                await self._deliver(batch)
            except asyncio.CancelledError:
                # The process is stopping: nobody may be left waiting for ever.
                for entry in (*batch, *self._waiting):
                    entry.future.cancel()
                raise

    async def _gather(self) -> None:
        """Waits until the first item has waited long enough or a batch is full."""
        remaining = self._waiting[0].since + self._max_seconds - asyncio.get_running_loop().time()
        if remaining > 0 and not self._full.is_set():
            try:
                async with asyncio.timeout(remaining):
                    await self._full.wait()
            except TimeoutError:
                return

    async def _deliver(self, batch: list[_Waiting[T, R]]) -> None:
        if not batch:
            return
        results: Sequence[R | Exception]
        try:
            results = await self._handle([entry.item for entry in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the handler gave {len(results)} results for {len(batch)} items")
        except Exception as error:
            if self._bisect and len(batch) > 1:
                middle = len(batch) // 2
                await self._deliver(batch[:middle])
                await self._deliver(batch[middle:])
                return
            results = [error] * len(batch)
        for entry, result in zip(batch, results, strict=True):
            if entry.future.done():
                continue
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)
