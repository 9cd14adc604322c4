"""What a worker's stream is told: when it is to fetch a fresh token, what it has told in turn, and what comes too late for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from services.common.errors import TokenExpired
from services.scheduler.domain.decision import Decisions
from services.scheduler.domain.ports import Demand, TaskBatches, WhoDecides
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import Lease
from services.scheduler.domain.worker import (
    CompletionReport,
    FailureReport,
    Heartbeat,
    OutputReport,
    ProgressReport,
    SchedulerMessage,
    WorkerMessage,
)
from services.scheduler.server.convert import work_responses
from services.scheduler.usecases.decide_starts import DecideStarts
from services.scheduler.usecases.dispatch import Dispatcher
from services.scheduler.usecases.group_commit import GroupCommit
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.offer_slots import SlotOffers
from services.scheduler.usecases.work import Work, WorkStream


def opened(ends_in: float | None, renewal: float = 60.0) -> WorkStream:
    """A stream whose token ends so many seconds from now."""

    async def commit(items: Any) -> list[Any]:
        raise AssertionError("nothing is told here")

    hub = Hub(origin="here")
    work = Work(
        reports=GroupCommit(commit),
        completions=GroupCommit(commit),
        heartbeats=GroupCommit(commit),
        dispatcher=Dispatcher(
            cast(TaskBatches, None),
            hub,
            1.0,
            SlotOffers(cast(Decisions, None)),
            cast(WhoDecides, None),
            cast(DecideStarts, None),
        ),
        hub=hub,
        lease=timedelta(seconds=15),
        heartbeat=timedelta(seconds=5),
        token_renewal=timedelta(seconds=renewal),
    )
    return work.open("acme", "gateway", None if ends_in is None else asyncio.get_running_loop().time() + ends_in)


async def heard(stream: WorkStream) -> tuple[list[timedelta], BaseException | None]:
    """The renewals that the stream asks for within a second and a half, and the error that ends it."""
    renewals: list[timedelta] = []
    try:
        async with asyncio.timeout(1.5):
            async for message in stream.messages():
                assert message.renew_token is not None
                renewals.append(message.renew_token)
    except (TimeoutError, TokenExpired) as error:
        return renewals, error
    finally:
        stream.close()
    return renewals, None


async def test_a_token_is_renewed_before_the_stream_ends_with_it() -> None:
    renewals, error = await heard(opened(ends_in=1.0, renewal=0.5))
    assert isinstance(error, TokenExpired)
    assert len(renewals) == 1
    assert timedelta(0) < renewals[0] <= timedelta(seconds=0.51)


async def test_a_short_lived_token_is_renewed_at_half_its_life() -> None:
    renewals, error = await heard(opened(ends_in=2.0, renewal=60.0))
    assert isinstance(error, TimeoutError)
    assert len(renewals) == 1
    assert timedelta(0) < renewals[0] <= timedelta(seconds=1.01)


async def test_a_token_that_has_ended_ends_the_stream() -> None:
    assert isinstance((await heard(opened(ends_in=-1.0)))[1], TokenExpired)


@pytest.mark.parametrize("ends_in", [None, 3600.0])
async def test_a_stream_without_a_token_or_with_a_long_one_hears_nothing(ends_in: float | None) -> None:
    renewals, error = await heard(opened(ends_in))
    assert renewals == []
    assert isinstance(error, TimeoutError)


async def test_nothing_is_taken_from_a_stream_whose_token_has_ended() -> None:
    stream = opened(ends_in=0.0)
    await heard(stream)
    with pytest.raises(TokenExpired):
        await stream.handle(WorkerMessage(credits=1))


async def test_a_closed_stream_leaves_no_timer_behind() -> None:
    stream = opened(ends_in=3600.0)
    stream.close()
    assert all(timer.cancelled() for timer in stream._token_timers)


def test_the_wire_says_how_long_the_token_lasts() -> None:
    assert SchedulerMessage().empty()
    message = SchedulerMessage(renew_token=timedelta(0))
    assert not message.empty()
    assert pb.WorkResponse.FromString(b"".join(work_responses(message))).HasField("renew_token")
    response = pb.WorkResponse.FromString(b"".join(work_responses(SchedulerMessage(renew_token=timedelta(seconds=1.5)))))
    assert response.renew_token.expires_in.ToTimedelta() == timedelta(seconds=1.5)
    assert pb.WorkResponse.FromString(b"".join(work_responses(SchedulerMessage(drain=True)))) == pb.WorkResponse(drain=True)


def telling(told: list[Any]) -> WorkStream:
    """A stream that has said hello; what it has committed is in `told`."""

    async def commit(items: Any) -> list[Any]:
        told.extend(items)
        return ["" if isinstance(item, Heartbeat) else None for item in items]

    stream = opened(None)
    for commits in (stream._work.reports, stream._work.completions, stream._work.heartbeats):
        commits._flush = commit
    stream._tenant_id, stream.worker_id, stream._demand = "acme", "w", Demand("acme", frozenset({"k"}), frozenset())
    return stream


async def test_progress_is_an_event_once_a_second_and_for_a_change_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("services.scheduler.usecases.work.time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[Any] = []
    stream = telling(told)

    async def beat(progress: float | None, seconds: float) -> list[float]:
        told.clear()
        now[0] += seconds
        await stream.handle(WorkerMessage(heartbeats=(("t", 1, progress),)))
        await stream._work.reports.drained()
        await stream._work.heartbeats.drained()
        return [report.progress for report in told if isinstance(report, ProgressReport)]

    assert await beat(None, 0) == []
    assert await beat(0.2, 1) == [0.2]
    assert await beat(0.3, 0.5) == []
    # What came too soon is told by the next beat, though that has nothing new to say.
    assert await beat(None, 0.5) == [0.3]
    assert await beat(0.305, 5) == []
    assert await beat(0.31, 5) == [0.31]
    assert await beat(0.1, 5) == [0.1]
    stream.stopped("t", 1, "CANCELLED")
    assert stream._progress == {}


async def test_a_completion_behind_output_is_told_in_its_turn() -> None:
    told: list[Any] = []
    stream = telling(told)
    stream._unchanged["t"] = cast(Run, object())
    message = WorkerMessage(outputs=(("t", 1, 1, "a"), ("t", 1, 2, "b")), completions=(("t", 1, b""),))
    await stream.handle(message)
    await stream._work.reports.drained()
    assert [type(report) for report in told] == [OutputReport, OutputReport, CompletionReport]
    assert stream._out.outputs == [("t", 1, 1, None), ("t", 1, 2, None)]
    assert stream._out.acks == [("t", 1, "")]
    response = pb.WorkResponse()
    for part in work_responses(stream._out):
        response.MergeFromString(part)
    assert [(each.sequence, each.reason) for each in response.outputs] == [(1, ""), (2, "")]


async def test_a_lease_that_is_told_too_late_is_given_back_with_its_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("services.scheduler.usecases.work.time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[Any] = []
    stream = telling(told)
    more: list[Demand] = []
    monkeypatch.setattr(stream._work.dispatcher, "more", more.append)

    def lease(task_id: str) -> Lease:
        return cast(Lease, SimpleNamespace(run=SimpleNamespace(tenant_id="acme", task_id=task_id, attempt=1)))

    stream.take([lease("t1"), lease("t2")])
    now[0] += 2.0
    stream._out.renewals.append(("other", 1))
    message = await anext(stream.messages())
    # The worker gets what else there is to say, and may have both credits again.
    assert (message.leases, message.renewals) == ([], [("other", 1)])
    await stream._work.reports.drained()
    assert [(type(report), report.task_id, report.reason) for report in told] == [
        (FailureReport, "t1", "WORKER_LOST"),
        (FailureReport, "t2", "WORKER_LOST"),
    ]
    assert (stream.credits, more) == (2, [stream._demand])
    stream.take([lease("t3")])
    now[0] += 1.0
    message = await anext(stream.messages())
    assert [each.run.task_id for each in message.leases] == ["t3"]
    assert stream.credits == 2
