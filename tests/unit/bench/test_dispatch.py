"""The checker of the dispatch bench, and what an owner decides from memory."""

from __future__ import annotations

from bench.dispatch.checker import Ran, exceeded, share_error, worst_window
from bench.dispatch.link import Message
from bench.dispatch.loads import Limits
from bench.dispatch.ready import Head, Ready
from bench.dispatch.statements import Lease

QUEUES = {"q": Limits(running=3, per_key=2)}


def ran(started: float, ended: float, *, key: str | None = "k", tenant: str = "t") -> Ran:
    return Ran(tenant, "q", key, 0.0, started, ended)


def head(number: int, *, tenant: str = "t", key: str | None = None, priority: int = 5) -> Head:
    return Head(f"task-{number}", tenant, "q", key, priority, number)


def test_a_third_run_of_a_key_at_once_is_noticed() -> None:
    assert exceeded([ran(0, 10), ran(1, 5), ran(4, 6)], QUEUES) == 1


def test_a_run_that_starts_when_another_ends_has_room() -> None:
    assert exceeded([ran(0, 10), ran(1, 5), ran(5, 6), ran(6, 6), ran(6, 7)], QUEUES) == 0


def test_a_full_queue_is_noticed_whatever_the_keys() -> None:
    assert exceeded([ran(0, 9, key=None) for _ in range(4)], QUEUES) == 1


def test_shares_are_of_slot_seconds_within_the_window() -> None:
    attempts = [ran(0, 10, tenant="a"), ran(0, 5, tenant="b"), ran(20, 30, tenant="b")]

    assert share_error(attempts, {"a": 1, "b": 1}, 0, 5) == 0
    assert round(share_error(attempts, {"a": 1, "b": 1}, 0, 10), 1) == 16.7
    assert worst_window(attempts, {"a": 1, "b": 1}, 0, 10, 5) == 50


def test_a_window_without_any_work_is_no_success() -> None:
    assert share_error([], {"a": 1}, 0, 5) == 100


def test_memory_keeps_limits_of_keys_and_of_the_queue() -> None:
    ready = Ready(QUEUES, {})
    ready.add([head(number, key="k") for number in range(5)] + [head(9, key="other"), head(10, key="third")])

    first = ready.take(10)
    assert [each.task_id for each in first] == ["task-0", "task-1", "task-9"]
    assert ready.take(10) == []
    ready.finish("task-9")
    assert [each.task_id for each in ready.take(10)] == ["task-10"]
    ready.finish("task-0")
    assert [each.task_id for each in ready.take(10)] == ["task-2"]


def test_memory_takes_the_most_urgent_first_and_each_task_once() -> None:
    ready = Ready({"q": Limits()}, {})
    ready.add([head(1), head(2, priority=9), head(3)])
    ready.add([head(1)])

    assert [each.task_id for each in ready.take(10)] == ["task-2", "task-1", "task-3"]


def test_slots_are_dealt_by_weight() -> None:
    ready = Ready({"q": Limits()}, {"a": 5, "b": 3, "c": 2})
    ready.add([head(100 * place + number, tenant=tenant) for place, tenant in enumerate("abc") for number in range(100)])

    taken = [each.tenant for each in ready.take(40)]

    assert [taken.count(tenant) for tenant in "abc"] == [20, 12, 8]


def test_a_message_survives_the_wire() -> None:
    message = Message(
        -3, True, ["a"], ["b"], [], {7: 2}, [Lease("c", 1, "q", "t", 0.5, b"\n\x00"), Lease("d", 2, "q", "t", 1, b"")]
    )

    assert Message.decode(message.encode()) == message
