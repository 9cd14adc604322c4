from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from aiokafka.partitioner import murmur2 as kafka_murmur2
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1.scheduler_service_pb2 import CreateTaskRequest
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import new_id
from services.scheduler.domain.events import Failed, Retried
from services.scheduler.domain.run import Run
from services.scheduler.domain.shards import shard_of, shards_of
from services.scheduler.domain.task import State
from services.scheduler.domain.wake import Wake, bucket_of, decode, encode, everything
from services.scheduler.server.convert import new_task
from tests.support import runs
from tests.support.runs import NOW

LEASE = timedelta(seconds=15)


def a_run(**changes: object) -> Run:
    return runs.a_run(**({"max_attempts": 3, "timeout_ms": 60_000, "next_event_number": 2, "available_at": NOW} | changes))


@given(st.lists(st.uuids(), min_size=1, max_size=60))
def test_the_shard_is_the_partition_of_kafkas_own_partitioner(ids: list[uuid.UUID]) -> None:
    task_ids = [str(each) for each in ids]
    assert shards_of(task_ids) == [(kafka_murmur2(task_id.encode()) & 0x7FFFFFFF) % 16 for task_id in task_ids]
    assert shard_of(task_ids[0]) == shards_of(task_ids)[0]


def test_shards_are_used_evenly() -> None:
    counts = [0] * 16
    for _ in range(3200):
        counts[shard_of(new_id())] += 1
    assert min(counts) > 120


def test_the_timeout_counts_from_the_first_start() -> None:
    run = a_run()
    run.start("w", NOW, LEASE)
    assert (run.attempt, run.deadline) == (1, NOW + timedelta(seconds=60))
    run.fail_attempt("BROKEN", "", NOW + timedelta(seconds=5))
    run.start("w", NOW + timedelta(seconds=50), LEASE)
    assert (run.attempt, run.start_time, run.deadline) == (2, NOW, NOW + timedelta(seconds=60))
    change = run.fail_attempt("BROKEN", "", NOW + timedelta(seconds=60))
    assert isinstance(change, Failed)
    assert run.error_reason == "TIMEOUT"


def test_attempts_are_used_up_one_by_one() -> None:
    run = a_run(max_attempts=2)
    run.start("w", NOW, LEASE)
    assert isinstance(run.fail_attempt("BROKEN", "it broke", NOW), Retried)
    assert not run.state.ended
    run.start("w", NOW, LEASE)
    change = run.fail_attempt("BROKEN", "it broke", NOW)
    assert change == Failed("BROKEN", "it broke (attempt 2 of 2, the last one)")
    assert run.state.ended


@pytest.mark.parametrize(
    ("state", "attempt", "reason", "stop"),
    [
        (State.RUNNING, 2, None, ""),
        (State.RUNNING, 1, None, "STALE_ATTEMPT"),
        (State.PENDING, 2, None, "STALE_ATTEMPT"),
        (State.COMPLETED, 2, None, "STALE_ATTEMPT"),
        (State.CANCELLED, 2, None, "CANCELLED"),
        (State.FAILED, 2, "TIMEOUT", "TIMEOUT"),
        (State.FAILED, 2, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        (State.SCHEDULED, 2, None, "STALE_ATTEMPT"),
        (State.FAILED, 2, "BROKEN", "STALE_ATTEMPT"),
    ],
)
def test_only_the_current_attempt_of_a_running_task_goes_on(state: State, attempt: int, reason: str | None, stop: str) -> None:
    assert a_run(state=state, attempt=2, error_reason=reason).stop_reason(attempt) == stop


def test_the_payload_hash_depends_on_what_the_caller_chose_only() -> None:
    def asked(by: str = "ada", **fields: Any) -> bytes:
        task = task_pb2.Task(**({"description": "x"} | fields))
        return new_task(CreateTaskRequest(task=task, request_id="r"), "acme", by, "").payload_hash()

    one = asked(labels={"a": "1", "b": "2"}, context={"k": 1})
    assert one == asked("bob", labels={"b": "2", "a": "1"}, context={"k": 1}, state=3, task_id="theirs", priority=5)
    others = [
        asked(labels={"a": "1"}, context={"k": 1}),
        asked(labels={"a": "1", "b": "2"}, context={"k": 2}),
        asked(labels={"a": "1", "b": "2"}),
        asked(labels={"a": "1", "b": "2"}, context={}),
        asked(labels={"a": "1", "b": "2"}, context={"k": 1}, priority=6),
    ]
    assert len({one, *others}) == 6


def test_a_wake_survives_its_notification() -> None:
    wake = Wake(kinds={"a", "b"}, buckets={1, 65535}, stops=[("t", 1, "CANCELLED")], shards=5, origin="me")
    assert decode(encode(wake)) == wake


@given(st.integers(0, 4000), st.integers(0, 200), st.integers(0, 300))
def test_a_notification_always_fits_and_never_forgets(tasks: int, stops: int, kinds: int) -> None:
    ids = [f"01990000-0000-7000-8000-{number:012x}" for number in range(tasks)]
    wake = Wake(
        kinds={f"a-kind-of-some-length-{number}" for number in range(kinds)},
        buckets={bucket_of(task_id) for task_id in ids},
        stops=[(task_id, 1, "STALE_ATTEMPT") for task_id in ids[:stops]],
        shards=0xFFFF,
    )
    payload = encode(wake)
    assert len(payload.encode()) < 8000
    heard = decode(payload)
    assert heard.shards == wake.shards
    for sent, got in ((wake.kinds, heard.kinds), (wake.buckets, heard.buckets), (wake.stops, heard.stops)):
        assert got is None or got == sent


def test_an_unreadable_notification_wakes_everyone() -> None:
    assert decode("{") == decode('{"v": 2}') == everything()
