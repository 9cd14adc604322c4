"""Batches made by number, by time and by load; each caller its own outcome (requirement row 7)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence

import pytest

from services.common.batcher import Batcher

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Doubler:
    """A handler that waits for leave before each batch and keeps what it saw."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.leave = asyncio.Event()
        self.began = asyncio.Event()
        self.whose: set[str] = set()
        if not held:
            self.leave.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        self.whose.add(who.get())
        self.began.set()
        await self.leave.wait()
        if 13 in items:
            raise ArithmeticError("13 spoils its batch")
        return [ValueError(f"{item} is negative") if item < 0 else item * 2 for item in items]


async def submit_all(batcher: Batcher[int, int], items: Sequence[int]) -> list[int | BaseException]:
    return await asyncio.gather(*(batcher.submit(item) for item in items), return_exceptions=True)


async def test_an_idle_batcher_handles_an_item_at_once() -> None:
    doubler = Doubler()
    async with asyncio.timeout(5):
        assert await Batcher(doubler, max_seconds=0).submit(1) == 2
    assert doubler.batches == [[1]]


async def test_what_arrives_during_a_batch_goes_out_together_next() -> None:
    doubler = Doubler(held=True)
    batcher: Batcher[int, int] = Batcher(doubler, max_items=3, max_seconds=0)
    first = asyncio.create_task(batcher.submit(1))
    await doubler.began.wait()
    others = asyncio.create_task(submit_all(batcher, [2, 3, 4, 5]))
    await asyncio.sleep(0)
    doubler.leave.set()
    assert await first == 2
    assert await others == [4, 6, 8, 10]
    assert doubler.batches == [[1], [2, 3, 4], [5]]


async def test_a_full_batch_leaves_long_before_its_time() -> None:
    doubler = Doubler()
    batcher: Batcher[int, int] = Batcher(doubler, max_items=4, max_seconds=3600)
    async with asyncio.timeout(5):
        assert await submit_all(batcher, [1, 2, 3, 4]) == [2, 4, 6, 8]
        assert await submit_all(batcher, list(range(8))) == [item * 2 for item in range(8)]
    assert [len(batch) for batch in doubler.batches] == [4, 4, 4]


async def test_a_batch_that_does_not_fill_leaves_when_its_first_item_has_waited_long_enough() -> None:
    doubler = Doubler()
    batcher: Batcher[int, int] = Batcher(doubler, max_items=100, max_seconds=0.05)
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await submit_all(batcher, [1, 2]) == [2, 4]
    assert loop.time() - started >= 0.045
    assert doubler.batches == [[1, 2]]


async def test_each_caller_gets_its_own_result_or_its_own_error() -> None:
    outcomes = await submit_all(Batcher(Doubler(), max_items=3, max_seconds=1), [1, -2, 3])
    assert (outcomes[0], outcomes[2]) == (2, 6)
    assert isinstance(outcomes[1], ValueError)
    assert str(outcomes[1]) == "-2 is negative"


async def test_a_handler_that_raises_fails_the_callers_of_that_batch_only() -> None:
    batcher: Batcher[int, int] = Batcher(Doubler(), max_items=2, max_seconds=1)
    outcomes = await submit_all(batcher, [1, 13, 3, 4])
    assert [type(outcome) for outcome in outcomes] == [ArithmeticError, ArithmeticError, int, int]
    assert await submit_all(batcher, [5, 6]) == [10, 12]


async def test_with_bisect_only_the_bad_item_fails() -> None:
    doubler = Doubler()
    outcomes = await submit_all(Batcher(doubler, max_items=8, max_seconds=1, bisect=True), [1, 2, 3, 13, 5, 6, 7, 8])
    assert isinstance(outcomes[3], ArithmeticError)
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [2, 4, 6, 10, 12, 14, 16]


async def test_a_cancelled_caller_takes_its_item_out_and_disturbs_nobody() -> None:
    doubler = Doubler(held=True)
    batcher: Batcher[int, int] = Batcher(doubler, max_seconds=0)
    in_flight = asyncio.create_task(batcher.submit(1))
    await doubler.began.wait()
    waiting, staying = asyncio.create_task(batcher.submit(2)), asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    in_flight.cancel()
    waiting.cancel()
    await asyncio.wait({in_flight, waiting})
    doubler.leave.set()
    assert await staying == 6
    assert doubler.batches == [[1], [3]]


async def test_a_batch_carries_no_callers_context() -> None:
    doubler = Doubler()
    who.set("ada")
    await Batcher(doubler, max_seconds=0).submit(1)
    assert doubler.whose == {"nobody"}


async def test_closing_hands_out_what_waits_and_takes_no_more() -> None:
    doubler = Doubler()
    batcher: Batcher[int, int] = Batcher(doubler, max_items=100, max_seconds=3600)
    waiting = asyncio.create_task(submit_all(batcher, [1, 2]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await batcher.aclose()
        assert await waiting == [2, 4]
    with pytest.raises(RuntimeError, match="closed"):
        await batcher.submit(3)


async def test_a_handler_that_loses_items_is_an_error_not_a_hang() -> None:
    async def careless(items: Sequence[int]) -> Sequence[int | Exception]:
        return []

    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        await Batcher(careless, max_seconds=0).submit(1)


@pytest.mark.parametrize("limits", [{"max_items": 0}, {"max_seconds": -1.0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Batcher(Doubler(), **limits)  # type: ignore[arg-type]
