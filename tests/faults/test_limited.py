"""The judgement of limits: what it counts, and what it does not."""

from __future__ import annotations

from tests.faults.history import OK, Operation
from tests.faults.limited import MAX_RUNNING, MAX_RUNNING_PER_KEY, QUEUE, more_at_workers, tags


def run(begun: float, ended: float | None, key: str = "k0", queue: str = QUEUE) -> Operation:
    return Operation("worker-0-0", "run", OK, begun, ended, {"task_id": "t", "queue": queue, "key": key})


def test_runs_at_once_beyond_a_limit_are_told() -> None:
    keys = [f"k{number % 3}" for number in range(MAX_RUNNING + 1)]
    assert more_at_workers([run(0.0, 2.0, key) for key in keys]) == [
        f"{MAX_RUNNING + 1} tasks of the queue {QUEUE} ran at once at the workers"
    ]
    (told,) = more_at_workers([run(0.0, 2.0) for _ in range(MAX_RUNNING_PER_KEY + 1)])
    assert told.endswith("with the key k0 ran at once at the workers")


def test_runs_one_after_the_other_of_other_queues_and_of_killed_workers_are_not() -> None:
    assert more_at_workers([run(float(number), float(number + 1)) for number in range(20)]) == []
    assert more_at_workers([run(0.0, 2.0, queue="default") for _ in range(20)]) == []
    assert more_at_workers([run(0.0, None) for _ in range(20)]) == []


def test_tags_are_of_the_queue_and_differ() -> None:
    assert len(set(tags("t", 40))) == 40
