"""How a run ends, whether it began or not, and what it then leaves behind."""

from __future__ import annotations

import asyncio

import pytest
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh_client.worker import JsonValue, Task, TaskFailed, Worker
from guildmesh_client.worker.reports import Report
from guildmesh_client.worker.stream import Stream


class Desk:
    """A worker with a stream of its own, and nobody at the other end."""

    def __init__(self, concurrency: int = 3) -> None:
        self.worker = Worker("localhost:1", concurrency=concurrency)
        self.stream = Stream(pb.WorkerHello(), self.worker._offer_room)
        self.hear(pb.WorkResponse(welcome=_welcome()))

    def hear(self, *responses: pb.WorkResponse) -> None:
        """Lets the worker hear it."""
        # The stream is open as far as the worker knows.
        self.worker._open_streams.setdefault(self.stream, asyncio.get_running_loop().create_future())  # type: ignore[arg-type]
        for response in responses:
            self.worker._hear(response, self.stream)

    @property
    def told(self) -> list[Report]:
        """What waits for an answer."""
        return self.worker._reports.all()

    async def credits(self) -> int:
        """What the next message offers."""
        return (await anext(self.stream.requests())).credits


def _welcome() -> pb.WorkerWelcome:
    welcome = pb.WorkerWelcome()
    welcome.lease_duration.seconds = 15
    welcome.heartbeat_interval.seconds = 5
    return welcome


def _leases(*attempts: tuple[str, int]) -> pb.WorkResponse:
    response = pb.WorkResponse()
    for task_id, attempt in attempts:
        lease = response.leases.add(traceparent="00-1")
        lease.task.task_id, lease.task.attempt, lease.task.kind = task_id, attempt, "k"
        lease.task.context.update({"n": 3})
        lease.remaining.seconds = 60
    return response


async def _rounds() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_ends_at_once_is_offered_again_in_one_message_with_its_completions() -> None:
    desk = Desk()

    @desk.worker.task("k")
    async def answer(task: Task) -> JsonValue:
        assert (task.traceparent, task.context, 59 < task.remaining <= 60) == ("00-1", {"n": 3}, True)
        return task.task_id

    messages = desk.stream.requests()
    assert (await anext(messages)).credits == 3
    desk.hear(_leases(("a", 1), ("b", 1), ("c", 2)))
    assert desk.worker.running == 3
    message = await anext(messages)
    assert message.credits == 3
    assert [(each.task_id, each.attempt, each.result.string_value) for each in message.completions] == [
        ("a", 1, "a"), ("b", 1, "b"), ("c", 2, "c"),
    ]  # fmt: skip
    assert desk.told == list(message.completions)
    desk.hear(pb.WorkResponse(acks=[pb.TaskAck(task_id=name, attempt=1) for name in ("a", "b")]))
    assert [report.task_id for report in desk.told] == ["c"]


@pytest.mark.parametrize("reason", ["CANCELLED", "TIMEOUT"])
async def test_what_is_cancelled_before_its_first_step_makes_room_and_tells_nothing(reason: str) -> None:
    desk = Desk()
    called: list[Task] = []

    @desk.worker.task("k")
    async def never(task: Task) -> JsonValue:
        called.append(task)
        return None

    assert await desk.credits() == 3
    desk.hear(_leases(("a", 1)), pb.WorkResponse(cancels=[pb.TaskCancel(task_id="a", attempt=1, reason=reason)]))
    assert desk.worker.running == 1
    await _rounds()
    assert (desk.worker.running, called, desk.told, desk.worker._newest) == (0, [], [], {})
    assert await desk.credits() == 1


async def test_a_newer_attempt_stops_the_older_and_outlives_it() -> None:
    desk = Desk()
    stopped: list[tuple[int, str]] = []
    go = asyncio.Event()

    @desk.worker.task("k")
    async def wait(task: Task) -> JsonValue:
        try:
            await go.wait()
        except asyncio.CancelledError:
            stopped.append((task.attempt, task.stop_reason))
            raise
        return task.attempt

    desk.hear(_leases(("a", 1)))
    await _rounds()
    desk.hear(_leases(("a", 2)))
    # For the older nothing more is to be said: neither is the newer what a cancel of the older means.
    desk.hear(pb.WorkResponse(cancels=[pb.TaskCancel(task_id="a", attempt=1, reason="CANCELLED")]))
    await _rounds()
    assert (stopped, desk.worker.running) == ([(1, "STALE_ATTEMPT")], 1)
    go.set()
    await _rounds()
    assert [(report.attempt, desk.worker.running) for report in desk.told] == [(2, 0)]


async def test_heartbeats_of_what_is_over_are_forgotten() -> None:
    desk = Desk()
    go = asyncio.Event()

    @desk.worker.task("k")
    async def wait(task: Task) -> JsonValue:
        await go.wait()
        return None

    desk.hear(_leases(("a", 1)))
    desk.stream.beat(desk.worker._heartbeats())
    await asyncio.sleep(0.01)
    assert desk.stream.unanswered() > 0
    go.set()
    await _rounds()
    assert desk.stream.unanswered() == 0


async def test_how_a_function_ends_is_what_is_told() -> None:
    desk = Desk(concurrency=10)

    @desk.worker.task("k")
    async def end(task: Task) -> JsonValue:
        if task.task_id == "fails":
            raise TaskFailed("TOOL_FAILED", "no luck", retryable=True)
        if task.task_id == "breaks":
            raise KeyError("x")
        return object() if task.task_id == "odd" else None  # type: ignore[return-value]

    desk.hear(_leases(("fails", 1), ("breaks", 1), ("odd", 1), ("fine", 1)))
    await _rounds()
    told = {each.task_id: (each.error.reason, each.retryable) for each in desk.told if isinstance(each, pb.TaskFailure)}
    assert told == {
        "fails": ("TOOL_FAILED", True),
        "breaks": ("WORKER_ERROR", True),
        "odd": ("INVALID_RESULT", False),
    }
    assert [each.task_id for each in desk.told if isinstance(each, pb.TaskCompletion)] == ["fine"]


async def test_a_stopped_worker_says_so_of_what_it_cuts_off() -> None:
    desk = Desk()

    @desk.worker.task("k")
    async def wait(task: Task) -> JsonValue:
        await asyncio.Event().wait()
        return None

    desk.hear(_leases(("a", 1)))
    await _rounds()
    await desk.worker._cancel_runs("WORKER_STOPPED")
    assert [each.error.reason for each in desk.told if isinstance(each, pb.TaskFailure)] == ["WORKER_STOPPED"]
    assert desk.worker.running == 0


def _timed(response: pb.WorkResponse, **limits: float) -> pb.WorkResponse:
    for lease in response.leases:
        for name, seconds in limits.items():
            getattr(lease.task, name).FromNanoseconds(round(seconds * 1e9))
        lease.remaining.FromNanoseconds(round(min(60.0, limits.get("attempt_timeout", 60.0)) * 1e9))
    return response


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def pass_by(self, seconds: float) -> None:
        """Moves it, and lets happen what is due."""
        self.now += seconds
        await _rounds()


def _endless(worker: Worker) -> None:
    @worker.task("k")
    async def wait(task: Task) -> JsonValue:
        await asyncio.Event().wait()
        return None


async def test_an_attempt_is_stopped_a_little_before_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    desk = Desk()
    _endless(desk.worker)
    desk.hear(_timed(_leases(("a", 1)), attempt_timeout=10))
    [run] = desk.worker._runs
    # Nobody looks at it meanwhile: it keeps to its limit by itself, to the moment.
    await clock.pass_by(9.4)
    assert run.task.stop_reason == ""
    await clock.pass_by(0.1)
    assert run.task.stop_reason == "ATTEMPT_TIMEOUT"


async def test_a_run_that_has_ended_keeps_to_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    desk = Desk()

    @desk.worker.task("k")
    async def work(task: Task) -> JsonValue:
        return 1

    desk.hear(_timed(_leases(("a", 1)), attempt_timeout=10, heartbeat_timeout=20))
    [run] = desk.worker._runs
    await _rounds()
    assert run._timer is not None
    assert run._timer.cancelled()
    await clock.pass_by(30)
    assert run.task.stop_reason == ""


async def test_a_run_is_stopped_when_the_scheduler_cannot_have_heard_of_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    desk = Desk()
    _endless(desk.worker)
    desk.hear(_timed(_leases(("a", 1), ("b", 1), ("c", 1)), heartbeat_timeout=20))
    told, unanswered, stepping = sorted(desk.worker._runs, key=lambda run: run.task.task_id)
    clock.now += 10
    for run in (told, unanswered):
        run.task.progress(0.5)
        assert run.has_urgent_news(clock.now)
        assert run.heartbeat().progress == 0.5
        assert not run.has_urgent_news(clock.now), "it was said"
    told.renewed(clock.now + 100)
    stepping.heard(clock.now)
    # A renewal that answers an older heartbeat knows no more than before.
    stepping.renewed(clock.now + 100)
    await clock.pass_by(9.5)
    assert [run.task.stop_reason for run in (told, unanswered, stepping)] == ["", "HEARTBEAT_TIMEOUT", ""]
    assert not told.heartbeat().HasField("progress"), "it is known"
    assert told.heartbeat(again=True).progress == 0.5
    await clock.pass_by(9.5)
    assert told.task.stop_reason == "HEARTBEAT_TIMEOUT"
