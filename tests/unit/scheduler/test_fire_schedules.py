"""The loop that starts due runs: it goes on while there are some, sleeps until the next, and survives what fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from services.common.errors import DependencyUnavailable
from services.scheduler.domain.ports import Firing
from services.scheduler.usecases.fire_schedules import FireSchedules


class Batches:
    """Gives what it was told to, one after another, and nothing for ever after."""

    def __init__(self, answers: Sequence[Firing | Exception]) -> None:
        self.left = list(answers)
        self.done = asyncio.Event()

    async def fire(self) -> Firing:
        if not self.left:
            self.done.set()
            return Firing(0, None)
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_it_goes_on_while_there_is_something_to_do_and_after_what_fails() -> None:
    failing = [DependencyUnavailable("database"), ValueError("a fault of ours")]
    batches = Batches([Firing(250, None), *failing, Firing(3, None), Firing(0, timedelta(milliseconds=1))])
    running = asyncio.create_task(FireSchedules(batches, 0.001).run())
    async with asyncio.timeout(10):
        await batches.done.wait()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("until_due", "pause"),
    [
        (None, 1.0),
        (3600.0, 1.0),
        (0.25, 0.25),
        # Due, and not to be had: another replica has it.
        (-5.0, 0.05),
    ],
)
def test_it_sleeps_until_the_next_run_and_no_longer_than_a_change_may_stay_unnoticed(
    until_due: float | None, pause: float
) -> None:
    assert FireSchedules(Batches([]), 1.0)._pause(until_due) == pause
