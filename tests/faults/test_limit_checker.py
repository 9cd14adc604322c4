"""The checker finds each way in which limits, rates and pauses are not kept, and nothing where they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.checker import check
from tests.faults.evidence import Event, Evidence, QueueLimits, TaskRow
from tests.faults.history import INFO, OK, Operation

WALL = 1000.0
Attempt = tuple[str, str, float, float, str]
"""task, key, start, end, and the event that ends it."""


def evidence(
    *attempts: Attempt,
    limits: QueueLimits,
    runs: Sequence[Operation] = (),
    pauses: Sequence[Operation] = (),
    at_once: bool = False,
) -> Evidence:
    """Tasks of one attempt each, in a queue with limits; with `at_once` they start when they are created."""
    table, tasks = [], {}
    history = [*pauses, *runs]
    for task_id, key, start, end, last in attempts:
        created = start if at_once else start - 1
        table += [
            Event(task_id, 1, "created", 0, time=created),
            Event(task_id, 2, "started", 1, time=start),
            Event(task_id, 3, last, 1, time=end),
        ]
        state = {"failed": "FAILED", "cancelled": "CANCELLED"}[last]
        tasks[task_id] = TaskRow(task_id, task_id, state, 1, 3, queue="q", key=key)
        history.append(Operation("client", "create", OK, 1.0, 2.0, {"tag": task_id}, {"task_id": task_id}))
    return Evidence(history, tasks, table, limits={"q": limits}, wall=WALL)


def run(task_id: str, begun: float, ended: float | None, who: str = "w") -> Operation:
    """A function at a worker, by the clock of histories."""
    return Operation(who, "run", OK if ended else INFO, begun, ended, {"task_id": task_id, "attempt": 1})


def asked(what: str, begun: float, ended: float, outcome: str = OK) -> Operation:
    return Operation("operator", what, outcome, begun, ended, {"queue": "q"})


def told(given: Evidence) -> set[tuple[str, str]]:
    return {(problem.kind, problem.task_id) for problem in check(given)}


ONE = QueueLimits(max_running=1)


def test_one_after_the_other_is_within_a_limit_of_one() -> None:
    runs = [run("a", 10.0, 10.9), run("b", 11.1, 11.9)]
    assert told(evidence(("a", "", 1010, 1011, "failed"), ("b", "", 1011, 1012, "failed"), limits=ONE, runs=runs)) == set()


def test_two_leases_at_once_exceed_a_limit_of_one() -> None:
    given = evidence(("a", "", 1010, 1011, "failed"), ("b", "", 1010.99, 1012, "failed"), limits=ONE)
    assert told(given) == {("exceeded", "b")}


def test_what_starts_when_it_is_created_may_have_been_timed_a_little_early() -> None:
    attempts = (("a", "", 1010.0, 1011.0, "failed"), ("b", "", 1010.99, 1012.0, "failed"))
    assert told(evidence(*attempts, limits=ONE, at_once=True)) == set()


def test_of_a_key_no_more_run_than_may_and_of_others_they_do() -> None:
    limits = QueueLimits(max_running=3, max_running_per_key=1)
    attempts = [(name, key, 1010.0, 1011.0, "failed") for name, key in (("a", "x"), ("b", "y"), ("c", ""))]
    assert told(evidence(*attempts, limits=limits)) == set()
    assert told(evidence(*attempts[:2], ("d", "x", 1010.5, 1012, "failed"), limits=limits)) == {("exceeded", "d")}


def test_a_function_that_goes_on_after_its_lease_exceeds_the_limit_at_workers() -> None:
    attempts = (("a", "", 1010, 1011, "failed"), ("b", "", 1011, 1012, "failed"))
    runs = [run("a", 10.0, 11.5), run("b", 11.1, 11.9)]
    assert told(evidence(*attempts, limits=ONE, runs=runs)) == {("exceeded", "b")}
    # Its worker was killed before: the last that it told is some time ago.
    runs = [run("a", 10.0, None, "killed"), run("b", 11.1, 11.9)]
    assert told(evidence(*attempts, limits=ONE, runs=runs)) == set()


def test_a_worker_may_hear_of_a_cancellation_later() -> None:
    attempts = (("a", "", 1010, 1011, "cancelled"), ("b", "", 1011, 1012, "failed"))
    assert told(evidence(*attempts, limits=ONE, runs=[run("a", 10.0, 11.5), run("b", 11.1, 11.9)])) == set()


def test_two_attempts_of_a_task_run_one_after_the_other() -> None:
    def again(begun: float) -> Operation:
        return Operation("v", "run", OK, begun, begun + 1, {"task_id": "a", "attempt": 2})

    attempts = (("a", "", 1010, 1020, "failed"),)
    assert told(evidence(*attempts, limits=ONE, runs=[run("a", 10.0, 11.0), again(11.0)])) == set()
    assert told(evidence(*attempts, limits=ONE, runs=[run("a", 10.0, 11.0), again(10.5)])) == {("exceeded", "a")}
    # A process that is gone runs nothing.
    assert told(evidence(*attempts, limits=ONE, runs=[run("a", 10.0, None), again(10.9)])) == set()


@pytest.mark.parametrize("start", [1020.5, 1029.0])
def test_nothing_starts_while_its_queue_is_paused(start: float) -> None:
    pauses = [asked("pause", 19.0, 19.5, INFO), asked("pause", 19.9, 20.0), asked("resume", 30.0, 31.0)]
    given = evidence(("a", "", start, start + 1, "failed"), limits=ONE, pauses=pauses)
    assert told(given) == {("exceeded", "a")}


@pytest.mark.parametrize("start", [1019.0, 1019.95, 1030.0])
def test_what_starts_before_a_pause_is_known_or_after_it_does_no_harm(start: float) -> None:
    pauses = [asked("pause", 19.9, 20.0), asked("resume", 30.0, 31.0)]
    assert told(evidence(("a", "", start, start + 20, "failed"), limits=ONE, pauses=pauses)) == set()


def test_more_starts_than_a_rate_allows() -> None:
    limits = QueueLimits(max_running=1000, rate_per_second=10, rate_burst=5)
    steady = [(f"t{number}", "", 1000 + number / 10, 1200, "failed") for number in range(100)]
    assert told(evidence(*steady, limits=limits)) == set()
    twice = [(f"t{number}", "", 1000 + number / 20, 1200, "failed") for number in range(100)]
    assert told(evidence(*twice, limits=limits)) == {("exceeded", "-")}
