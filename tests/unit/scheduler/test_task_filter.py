"""Filters as AIP-160 writes them, as far as they are possible; everything else is refused with what to do."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.errors import InvalidFilter, InvalidOrderBy
from services.scheduler.domain.task import State
from services.scheduler.domain.task_filter import Condition, TaskFilter, parse_filter, parse_order

PARENT = "01990000-0000-7000-8000-00000000000A"


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("", []),
        ("  ", []),
        ("state = FAILED", [("state", "=", State.FAILED)]),
        ("state=failed AND queue='re search'", [("state", "=", State.FAILED), ("queue", "=", "re search")]),
        ("state != TASK_STATE_COMPLETED", [("state", "!=", State.COMPLETED)]),
        (r'queue != "a \"quoted\" AND one"', [("queue", "!=", 'a "quoted" AND one')]),
        ("kind = agent.task", [("kind", "=", "agent.task")]),
        ("priority>=7 AND attempt < 2", [("priority", ">=", 7), ("attempt", "<", 2)]),
        (f"parent_task_id = {PARENT}", [("parent_task_id", "=", PARENT.lower())]),
        ("labels.team = red", [("labels.team", "=", "red")]),
        ('labels.guildmesh.schedule_id = "x y"', [("labels.guildmesh.schedule_id", "=", "x y")]),
        ("""labels."team of" = '' AND labels.'a"b' = c""", [("labels.team of", "=", ""), ('labels.a"b', "=", "c")]),
        ("created_by = ada AND concurrency_key = k-1", [("created_by", "=", "ada"), ("concurrency_key", "=", "k-1")]),
        (
            f"schedule_id = nightly AND replay_of = {PARENT}",
            [("schedule_id", "=", "nightly"), ("replay_of", "=", PARENT.lower())],
        ),
        ("error.reason = TIMEOUT", [("error.reason", "=", "TIMEOUT")]),
        (
            'create_time >= "2026-11-22T10:00:00Z" AND finish_time < 2026-11-22T11:30:00+02:00',
            [
                ("create_time", ">=", datetime(2026, 11, 22, 10, tzinfo=UTC)),
                ("finish_time", "<", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)),
            ],
        ),
    ],
)
def test_what_can_be_asked_for(text: str, conditions: list[tuple[str, str, object]]) -> None:
    assert parse_filter(text) == tuple(Condition(*condition) for condition in conditions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("colour = red", "'colour' is not a field to filter by; the fields are state, queue"),
        ("labels. = red", "'labels.' is not a field"),
        ("labels.team != red", "labels.team must be followed by =, not by '!='"),
        ('"labels.team" = red', "'labels.team' is not a field"),
        ("created_by = ''", "it must not be empty"),
        ("state", "state must be followed by = or !=, not by ''"),
        ("state =", "state = must be followed by a value"),
        ("state = =", "state = must be followed by a value"),
        ("state : FAILED", "state must be followed by = or !=, not by ':'"),
        ("state > FAILED", "not by '>'"),
        ("state = DONE", "the states are PENDING, RUNNING"),
        ("state = FAILED queue = code", "'queue' stands where AND should"),
        ("state = FAILED OR queue = code", "'OR' stands where AND should"),
        ("state = FAILED AND", "'' is not a field"),
        ("NOT state = FAILED", "'NOT' is not possible"),
        ("(state = FAILED)", "'(' is not possible"),
        ("-state = FAILED", "'-state' is not possible"),
        ('"state" = FAILED', "is not a field"),
        ('queue = "code', "is a quote missing"),
        ("priority = high", "it must be a whole number"),
        ("priority = 99999999999", "it must be a whole number"),
        ("create_time > yesterday", "it must be a time such as"),
        ("create_time > 2026-11-22", "it must be a time such as"),
        ("create_time > 2026-11-22T10:00:00", "it must be a time such as"),
        ("create_time = 2026-11-22T10:00:00Z", "create_time must be followed by < or <="),
        ("parent_task_id = 7", "it must be a task id"),
        (" AND ".join(["attempt > 1"] * 21), "at most 20"),
    ],
)
def test_what_is_refused_says_why(text: str, word: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        parse_filter(text)
    assert word in refused.value.message
    assert "An example: " in refused.value.message


@given(st.text(alphabet="state=!<> ANDqueu\"'\\:()0129-TZ.,\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidFilter):
        assert len(parse_filter(text)) <= 20


def test_orders() -> None:
    assert parse_order("") == (False, True)
    assert parse_order("create_time") == (False, False)
    assert parse_order(" finish_time  desc ") == (True, True)
    assert parse_order("finish_time asc") == (True, False)
    for text in ("priority", "finish_time DESC", "finish_time, create_time", "finish_time desc desc"):
        with pytest.raises(InvalidOrderBy):
            parse_order(text)


def test_states_that_conditions_leave() -> None:
    def states(text: str, **order: bool) -> set[str]:
        return {state.name for state in TaskFilter(parse_filter(text), **order).states}

    assert states("") == {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "SCHEDULED", "WAITING", "BLOCKED"}
    assert states("", by_finish_time=True) == {"COMPLETED", "FAILED", "CANCELLED"}
    assert states("state != COMPLETED AND finish_time > 2026-11-22T10:00:00Z") == {"FAILED", "CANCELLED"}
    assert states("state = RUNNING AND error.reason != X") == set()
