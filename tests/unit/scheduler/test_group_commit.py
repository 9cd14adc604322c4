from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.common.errors import DomainError, NotFound, Unavailable
from services.scheduler.usecases.group_commit import GroupCommit


class Recorder:
    """A flush that notes its batches and can be held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | DomainError]:
        self.batches.append(list(items))
        await self.go.wait()
        if 13 in items:
            raise ValueError("13 breaks the statement")
        return [NotFound("no") if item == 7 else item * 2 for item in items]


async def test_what_arrives_during_a_commit_goes_out_together_with_the_next() -> None:
    flush = Recorder()
    flush.go.clear()
    commits = GroupCommit[int, int](flush)
    first = commits.submit(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [commits.submit(number) for number in (2, 3, 4)]
    flush.go.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert flush.batches == [[1], [2, 3, 4]]


async def test_each_caller_gets_its_own_error() -> None:
    commits = GroupCommit[int, int](Recorder())
    answers = await asyncio.gather(*(commits.submit(number) for number in (6, 7, 8)), return_exceptions=True)
    assert answers[0] == 12
    assert isinstance(answers[1], NotFound)
    assert answers[2] == 16


async def test_a_bad_item_fails_alone() -> None:
    flush = Recorder()
    commits = GroupCommit[int, int](flush)
    futures = [commits.submit(number) for number in (11, 12, 13, 14, 15)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [answer for answer in answers if not isinstance(answer, Exception)] == [22, 24, 28, 30]
    assert isinstance(answers[2], ValueError)


async def test_an_outage_fails_the_batch_without_halving_it() -> None:
    calls = 0

    async def away(items: Sequence[int]) -> Sequence[int]:
        nonlocal calls
        calls += 1
        raise Unavailable("away")

    commits = GroupCommit[int, int](away)
    answers = await asyncio.gather(*(commits.submit(number) for number in range(4)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert calls == 1


async def test_a_caller_that_gives_up_changes_nothing_for_the_others() -> None:
    flush = Recorder()
    flush.go.clear()
    commits = GroupCommit[int, int](flush)
    leaving = asyncio.ensure_future(commits.submit(1))
    staying = commits.submit(2)
    await asyncio.sleep(0)
    leaving.cancel()
    flush.go.set()
    assert await staying == 4
    await commits.drained()


@pytest.mark.parametrize(("most_items", "most_weight"), [(2, 1000), (1000, 20)])
async def test_batches_are_limited_in_number_and_weight(most_items: int, most_weight: int) -> None:
    flush = Recorder()
    commits = GroupCommit[int, int](flush, most_items=most_items, most_weight=most_weight, weigh=lambda _: 10)
    await asyncio.gather(*(commits.submit(number) for number in range(5)))
    assert [len(batch) for batch in flush.batches] == [2, 2, 1]


async def test_another_commit_is_begun_beside_the_first_when_enough_waits_for_it() -> None:
    flush = Recorder()
    flush.go.clear()
    commits = GroupCommit[int, int](flush, abreast=2)
    many = list(range(1000, 1100))
    waiting = [commits.submit_all(many), commits.submit_all([1])]
    await asyncio.sleep(0.01)
    assert flush.batches == [[*many, 1]]
    waiting.append(commits.submit_all([2]))
    await asyncio.sleep(0.01)
    # A commit for one item alone would cost more than its wait.
    assert len(flush.batches) == 1
    waiting.append(commits.submit_all(many))
    await asyncio.sleep(0.01)
    assert flush.batches[1:] == [[2, *many]]
    waiting.append(commits.submit_all(many))
    await asyncio.sleep(0.01)
    assert len(flush.batches) == 2
    flush.go.set()
    answers = await asyncio.gather(*waiting)
    assert [answer[0] for answer in answers] == [2000, 2, 4, 2000, 2000]
    await commits.drained()
    assert flush.batches[2:] == [many]


async def test_what_comes_as_the_last_commit_ends_is_not_left_in_line() -> None:
    commits = GroupCommit[int, int](Recorder(), abreast=2)
    for number in range(20):
        assert await commits.submit(number + 100) == 2 * number + 200
