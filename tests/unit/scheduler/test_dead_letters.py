"""Filters of dead letters, and the task that repeats a failed one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from guildmesh.scheduler.v1 import scheduler_service_pb2, task_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.dead_letter import replay_request_id
from services.scheduler.domain.dead_letter_filter import parse_dead_letter_filter
from services.scheduler.domain.errors import InvalidFilter
from services.scheduler.domain.task import Task
from services.scheduler.domain.task_filter import Condition
from services.scheduler.server.convert import new_task
from services.scheduler.server.dead_letter_convert import replayed_task

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def test_a_filter_has_the_fields_of_dead_letters() -> None:
    text = 'reason = TIMEOUT AND kind != "a.b" AND replayed = FALSE AND attempts >= 3 AND fail_time < "2026-11-28T12:00:00Z"'
    assert parse_dead_letter_filter(text) == (
        Condition("reason", "=", "TIMEOUT"),
        Condition("kind", "!=", "a.b"),
        Condition("replayed", "=", 0),
        Condition("attempts", ">=", 3),
        Condition("fail_time", "<", NOON),
    )
    assert parse_dead_letter_filter("") == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("state = FAILED", "reason, kind, replayed, attempts, fail_time"),
        ("replayed = 1", "true or false"),
        ("replayed != true", "followed by ="),
        ("fail_time = x", "followed by <"),
        ("attempts = many", "whole number"),
        ("reason", "followed by"),
    ],
)
def test_what_is_no_filter_is_told(text: str, says: str) -> None:
    with pytest.raises(InvalidFilter, match=says):
        parse_dead_letter_filter(text)


def created(**fields: Any) -> Task:
    """A task as it was created for ada."""
    request = scheduler_service_pb2.CreateTaskRequest(task=task_pb2.Task(description="x", **fields))
    new = new_task(request, "acme", "ada", "")
    return Task(new.task_id, "acme", new.spec, NOON, new.context, f"00-{32 * 'a'}-{16 * 'b'}-01")


@given(
    priority=st.integers(1, 10),
    attempts=st.none() | st.integers(1, 20),
    labels=st.dictionaries(st.text("ab", min_size=1), st.text("xyz"), max_size=3),
    context=st.none() | st.dictionaries(st.text("ab"), st.text()),
)
def test_a_replay_is_the_same_task_but_for_who_it_is_by_and_of(
    priority: int, attempts: int | None, labels: dict[str, str], context: dict[str, str] | None
) -> None:
    more: dict[str, Any] = {} if attempts is None else {"max_attempts": attempts}
    if context is not None:
        more["context"] = Struct()
        more["context"].update(context)
    failed = created(priority=priority, labels=labels, queue="code", kind="k", **more)
    replay = replayed_task(failed, NOON, "bob", "")
    before, after = task_pb2.Task.FromString(failed.spec), task_pb2.Task.FromString(replay.spec)
    assert (after.replay_of, after.created_by, after.task_id) == (failed.task_id, "bob", replay.task_id)
    assert replay.task_id != failed.task_id
    for name in ("replay_of", "created_by", "task_id"):
        before.ClearField(name)  # type: ignore[arg-type]
        after.ClearField(name)  # type: ignore[arg-type]
    assert after == before
    assert replay.context == failed.context
    assert replay.traceparent == failed.traceparent
    assert (replay.queue, replay.kind, replay.priority, replay.tenant_id) == ("code", "k", priority, "acme")


def test_a_replay_of_a_replay_names_the_one_it_repeats() -> None:
    first = created()
    second = replayed_task(first, NOON, "bob", "")
    third = replayed_task(Task(second.task_id, "acme", second.spec, NOON), NOON, "bob", "")
    assert task_pb2.Task.FromString(third.spec).replay_of == second.task_id


def test_a_replay_starts_at_once_without_a_parent_and_keeps_only_a_deadline_to_come() -> None:
    for deadline, kept in ((NOON - timedelta(seconds=1), False), (NOON, False), (NOON + timedelta(seconds=1), True)):
        failed = created(parent_task_id="01990000-0000-7000-8000-000000000000", delay=timedelta(hours=1), deadline=deadline)
        replay = replayed_task(failed, NOON, "bob", "")
        spec = task_pb2.Task.FromString(replay.spec)
        assert (replay.parent_task_id, spec.WhichOneof("start"), spec.HasField("deadline")) == (None, None, kept)
        assert (replay.times is not None) is kept


def test_the_request_id_of_another_replay_is_no_callers() -> None:
    made = replay_request_id("1", "x")
    assert made == replay_request_id("1", "x") != replay_request_id("2", "x")
    assert len(made) > 64
