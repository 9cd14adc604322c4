"""The circuit breaker, by a clock of its own (requirement row 11)."""

from __future__ import annotations

import asyncio

import pytest

from services.common.circuit_breaker import CircuitBreaker, CircuitOpen, CircuitState


class Outage(Exception):
    pass


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Dependency:
    """Raises what it is told to, and counts its calls."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("test", lambda error: isinstance(error, Outage), clock=clock)


def state_of(breaker: CircuitBreaker) -> CircuitState:
    return breaker.state


async def fail(breaker: CircuitBreaker, dependency: Dependency, times: int) -> None:
    dependency.error = Outage()
    for _ in range(times):
        with pytest.raises(Outage):
            await breaker.call(dependency)


async def test_it_opens_after_five_failures_in_a_row_and_then_calls_nobody(breaker: CircuitBreaker) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 4)
    assert state_of(breaker) is CircuitState.CLOSED
    await fail(breaker, dependency, 1)
    assert state_of(breaker) is CircuitState.OPEN
    with pytest.raises(CircuitOpen) as refused:
        await breaker.call(dependency)
    assert refused.value.retry_after == 60
    assert dependency.calls == 5


async def test_a_success_between_failures_starts_the_count_again(breaker: CircuitBreaker) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 4)
    dependency.error = None
    assert await breaker.call(dependency) == "answer"
    await fail(breaker, dependency, 4)
    assert state_of(breaker) is CircuitState.CLOSED


async def test_other_exceptions_are_not_failures_of_the_dependency(breaker: CircuitBreaker) -> None:
    dependency = Dependency()
    dependency.error = ValueError("a bad request")
    for _ in range(10):
        with pytest.raises(ValueError, match="bad request"):
            await breaker.call(dependency)
    assert state_of(breaker) is CircuitState.CLOSED


async def test_after_sixty_seconds_one_call_is_let_through_and_its_success_closes_the_circuit(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 5)
    clock.now += 59.9
    assert state_of(breaker) is CircuitState.OPEN
    clock.now += 0.1
    assert state_of(breaker) is CircuitState.HALF_OPEN
    dependency.error = None
    assert await breaker.call(dependency) == "answer"
    assert state_of(breaker) is CircuitState.CLOSED


async def test_a_failure_when_half_open_opens_the_circuit_for_another_sixty_seconds(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 5)
    clock.now += 60
    await fail(breaker, dependency, 1)
    assert state_of(breaker) is CircuitState.OPEN
    clock.now += 59
    with pytest.raises(CircuitOpen):
        await breaker.call(dependency)


async def test_only_one_call_goes_through_when_half_open(breaker: CircuitBreaker, clock: Clock) -> None:
    await fail(breaker, Dependency(), 5)
    clock.now += 60
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        started.set()
        await go_on.wait()
        return "late"

    probe = asyncio.create_task(breaker.call(slow))
    await started.wait()
    with pytest.raises(CircuitOpen):
        await breaker.call(slow)
    go_on.set()
    assert await probe == "late"
    assert state_of(breaker) is CircuitState.CLOSED


async def test_a_cancelled_probe_lets_the_next_call_try(breaker: CircuitBreaker, clock: Clock) -> None:
    dependency = Dependency()
    await fail(breaker, dependency, 5)
    clock.now += 60
    dependency.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await breaker.call(dependency)
    dependency.error = None
    assert await breaker.call(dependency) == "answer"


async def test_a_call_that_began_before_the_circuit_opened_does_not_close_it(breaker: CircuitBreaker) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        started.set()
        await go_on.wait()
        return "late"

    early = asyncio.create_task(breaker.call(slow))
    await started.wait()
    await fail(breaker, Dependency(), 5)
    go_on.set()
    await early
    assert state_of(breaker) is CircuitState.OPEN
