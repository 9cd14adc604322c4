"""Which runs of a schedule start: missed ones, overlapping ones, jitter, windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.common.ids import new_id
from services.scheduler.domain.errors import BackfillTooLarge
from services.scheduler.domain.schedule import (
    MOST_BACKFILLED,
    MOST_TRACKED,
    DueRuns,
    MissedRunPolicy,
    Overlap,
    OverlapPolicy,
    Schedule,
    due_runs,
    overlap,
)

TEN = datetime(2026, 11, 26, 10, tzinfo=UTC)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
SKIP, RUN_LAST, RUN_ALL = MissedRunPolicy
MANY = 10_000


def a_schedule(next_time: datetime | None = TEN, **fields: Any) -> Schedule:
    """A schedule for every hour whose next run is at ten."""
    values: dict[str, Any] = {"tenant_id": "acme", "schedule_id": "hourly", "cron": "@hourly", "task": b"", "created_by": "ada"}
    schedule = Schedule(**(values | {"uid": new_id()} | fields))
    schedule.move(next_time)
    return schedule


def hours(*numbers: int) -> list[datetime]:
    return [TEN + number * HOUR for number in numbers]


@pytest.mark.parametrize("policy", MissedRunPolicy)
def test_a_run_in_time_starts_whatever_the_policy(policy: MissedRunPolicy) -> None:
    schedule = a_schedule(missed_run_policy=policy)
    for late in (timedelta(), SECOND, MINUTE):
        assert due_runs(schedule, TEN + late, MANY, MANY) == DueRuns(hours(0), 0, TEN + HOUR, 1)


@pytest.mark.parametrize("policy", MissedRunPolicy)
def test_nothing_starts_before_its_time(policy: MissedRunPolicy) -> None:
    assert due_runs(a_schedule(missed_run_policy=policy), TEN - SECOND, MANY, MANY) == DueRuns([], 0, TEN, 0)


# Nobody was there from ten on, until three hours and five minutes later.
@pytest.mark.parametrize(
    ("policy", "started", "skipped"), [(SKIP, hours(), 4), (RUN_LAST, hours(3), 3), (RUN_ALL, hours(0, 1, 2, 3), 0)]
)
def test_missed_runs_start_as_the_policy_says(policy: MissedRunPolicy, started: list[datetime], skipped: int) -> None:
    now = TEN + 3 * HOUR + 5 * MINUTE
    assert due_runs(a_schedule(missed_run_policy=policy), now, MANY, MANY) == DueRuns(started, skipped, TEN + 4 * HOUR, 4)


# And again, but somebody is back just in time for the last of them.
@pytest.mark.parametrize(
    ("policy", "started", "skipped"), [(SKIP, hours(3), 3), (RUN_LAST, hours(3), 3), (RUN_ALL, hours(0, 1, 2, 3), 0)]
)
def test_a_run_in_time_is_the_last_one(policy: MissedRunPolicy, started: list[datetime], skipped: int) -> None:
    now = TEN + 3 * HOUR + 5 * SECOND
    assert due_runs(a_schedule(missed_run_policy=policy), now, MANY, MANY) == DueRuns(started, skipped, TEN + 4 * HOUR, 4)


@pytest.mark.parametrize(("policy", "started"), [(SKIP, hours()), (RUN_LAST, hours(3)), (RUN_ALL, hours(2, 3))])
def test_what_is_later_than_the_window_is_skipped(policy: MissedRunPolicy, started: list[datetime]) -> None:
    schedule = a_schedule(missed_run_policy=policy, catch_up_window=90 * MINUTE)
    due = due_runs(schedule, TEN + 3 * HOUR + 5 * MINUTE, MANY, MANY)
    assert (due.start, due.skipped) == (started, 4 - len(started))
    late = due_runs(a_schedule(missed_run_policy=policy, catch_up_window=MINUTE), TEN + 3 * HOUR + 5 * MINUTE, MANY, MANY)
    assert (late.start, late.skipped) == ([], 4)


@given(st.sampled_from(MissedRunPolicy), st.integers(0, 400), st.integers(1, 50), st.integers(1, 50))
def test_a_long_outage_is_made_up_for_bit_by_bit_as_at_once(
    policy: MissedRunPolicy, hours_away: int, most_times: int, most_runs: int
) -> None:
    schedule = a_schedule(missed_run_policy=policy, catch_up_window=100 * HOUR)
    now = TEN + hours_away * HOUR + 5 * MINUTE
    at_once = due_runs(schedule, now, MANY, MANY)
    assert len(at_once.start) + at_once.skipped == hours_away + 1
    started: list[datetime] = []
    skipped = 0
    while True:
        part = due_runs(schedule, now, most_times, most_runs)
        assert part.looked_at <= most_times
        assert len(part.start) <= most_runs
        started += part.start
        skipped += part.skipped
        schedule.move(part.next)
        if part.next == at_once.next:
            break
    assert (started, skipped) == (at_once.start, at_once.skipped)


def test_a_schedule_ends_with_its_window() -> None:
    schedule = a_schedule(None, start_time=TEN + HOUR, end_time=TEN + 2 * HOUR)
    schedule.plan(TEN - 24 * HOUR)
    assert schedule.preview() == hours(1, 2)
    due = due_runs(schedule, TEN + 2 * HOUR, MANY, MANY)
    assert (due.start, due.next) == (hours(2), None)
    schedule.plan(TEN + 2 * HOUR)
    assert (schedule.next_time, schedule.wake_time, schedule.preview()) == (None, None, [])


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="must not be before"):
        a_schedule(start_time=TEN, end_time=TEN - HOUR).check()


def test_jitter_is_the_same_for_everybody_who_asks_and_another_one_for_each_run() -> None:
    schedule = a_schedule(jitter=10 * MINUTE)
    twin = a_schedule(jitter=10 * MINUTE, uid=schedule.uid)
    dues = [schedule.due(time) for time in hours(*range(20))]
    assert dues == [twin.due(time) for time in hours(*range(20))]
    delays = {due - time for due, time in zip(dues, hours(*range(20)), strict=True)}
    assert len(delays) == 20
    assert all(timedelta() <= delay < 10 * MINUTE for delay in delays)
    assert schedule.wake_time == schedule.preview()[0] == dues[0]
    assert due_runs(schedule, dues[0] - timedelta(microseconds=1), MANY, MANY).start == []
    assert due_runs(schedule, dues[0], MANY, MANY).start == hours(0)


def test_runs_keep_their_order_when_jitter_is_longer_than_the_time_between_them() -> None:
    schedule = a_schedule(cron="* * * * *", jitter=HOUR, missed_run_policy=RUN_ALL)
    now, started = TEN, []
    while len(started) < 60:
        due = due_runs(schedule, now, MANY, MANY)
        started += due.start
        assert due.next is not None
        schedule.move(due.next)
        now += MINUTE
    assert started == [TEN + number * MINUTE for number in range(len(started))]


ALLOW, SKIPPING, BUFFER, CANCEL = OverlapPolicy
# Policy, whether earlier runs go on, which run waits, and what comes of runs at 10, 11 and 12.
OVERLAPS = [
    (ALLOW, False, None, Overlap(hours(0, 1, 2))),
    (ALLOW, True, None, Overlap(hours(0, 1, 2))),
    (SKIPPING, False, None, Overlap(hours(0), 2)),
    (SKIPPING, True, None, Overlap([], 3)),
    (BUFFER, False, None, Overlap(hours(0), 1, buffered=TEN + HOUR)),
    (BUFFER, True, None, Overlap([], 2, buffered=TEN)),
    (BUFFER, True, TEN - HOUR, Overlap([], 3, buffered=TEN - HOUR)),
    (BUFFER, False, TEN - HOUR, Overlap(hours(-1), 2, buffered=TEN)),
    (CANCEL, False, None, Overlap(hours(2), 2)),
    (CANCEL, True, None, Overlap(hours(2), 2, cancel=True)),
    # One waits from before the policy was changed.
    (ALLOW, True, TEN - HOUR, Overlap(hours(-1, 0, 1, 2))),
    (SKIPPING, False, TEN - HOUR, Overlap(hours(-1), 3)),
]


@pytest.mark.parametrize(("policy", "active", "buffered", "expected"), OVERLAPS)
def test_overlapping_runs(policy: OverlapPolicy, active: bool, buffered: datetime | None, expected: Overlap) -> None:
    assert overlap(policy, hours(0, 1, 2), buffered, active=active) == expected


@pytest.mark.parametrize("policy", OverlapPolicy)
def test_the_run_that_waits_starts_when_nothing_goes_on_any_more(policy: OverlapPolicy) -> None:
    assert overlap(policy, [], TEN, active=False).start == hours(0)
    assert overlap(policy, [], None, active=True) == Overlap([])


@given(st.sampled_from(OverlapPolicy), st.integers(0, 5), st.booleans(), st.booleans())
def test_every_run_starts_waits_or_is_counted_as_skipped(policy: OverlapPolicy, number: int, active: bool, waits: bool) -> None:
    found = overlap(policy, hours(*range(number)), TEN - HOUR if waits else None, active=active)
    assert len(found.start) + found.skipped + (found.buffered is not None) == number + waits


def test_a_pause_drops_the_run_that_waits_and_a_plan_after_it_none_of_the_pause() -> None:
    schedule = a_schedule(buffered_time=TEN - HOUR, paused=True)
    schedule.plan(TEN)
    assert (schedule.next_time, schedule.wake_time, schedule.buffered_time, schedule.skipped_count) == (None, None, None, 1)
    schedule.paused = False
    schedule.plan(TEN + 5 * HOUR + MINUTE)
    assert schedule.next_time == TEN + 6 * HOUR


def test_a_schedule_that_cannot_run_is_paused_and_says_why() -> None:
    schedule = a_schedule(time_zone="Mars/Base")
    before = schedule.etag
    schedule.stop("no such zone", TEN)
    assert (schedule.paused, schedule.last_error, schedule.wake_time) == (True, "no such zone", None)
    assert schedule.etag != before


def test_a_schedule_whose_zone_is_no_longer_known_can_be_looked_at() -> None:
    assert a_schedule(time_zone="Mars/Base").preview() == [TEN]


def test_only_the_latest_tasks_are_kept_in_mind() -> None:
    schedule = a_schedule()
    ids = [new_id() for _ in range(MOST_TRACKED + 50)]
    schedule.started(ids, TEN)
    assert (schedule.run_count, schedule.last_task_id, schedule.active_task_ids) == (150, ids[-1], tuple(ids[50:]))


def test_a_request_id_is_longer_than_a_callers_and_another_one_for_each_schedule_of_a_name() -> None:
    one, two = a_schedule(), a_schedule()
    assert len({one.request_id("x"), one.request_id("y"), two.request_id("x")}) == 3
    assert min(map(len, (one.request_id("x"), two.request_id("x")))) > 64


def test_a_backfill_has_both_ends_and_a_limit() -> None:
    schedule = a_schedule()
    assert schedule.within(TEN, TEN + 2 * HOUR) == hours(0, 1, 2)
    assert schedule.within(TEN + SECOND, TEN + MINUTE) == []
    assert len(schedule.within(TEN, TEN + (MOST_BACKFILLED - 1) * HOUR)) == MOST_BACKFILLED
    with pytest.raises(BackfillTooLarge):
        schedule.within(TEN, TEN + MOST_BACKFILLED * HOUR)
    with pytest.raises(BackfillTooLarge, match="More than 32 runs"):
        a_schedule(context=b"x" * (1 << 20)).within(TEN, TEN + 40 * HOUR)
