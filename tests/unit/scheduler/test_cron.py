"""The times of cron expressions: over clock changes, as Debian's cron has them, and what is refused."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import DomainError
from services.scheduler.domain.cron import WORDS, Cron, cron_of, zone_of
from services.scheduler.domain.errors import InvalidCron, InvalidTimeZone


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(cron: str, zone: str, after: str, number: int) -> list[str]:
    """The next times in UTC, as month-day hour:minute."""
    return [time.strftime("%m-%d %H:%M") for time in islice(Cron(cron, zone).after(at(after)), number)]


# Each: expression, zone, a moment before the change, the times from there on, all in UTC.
CHANGES = {
    "Berlin goes forward at 2:00, and 2:30 is right after the gap": (
        "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", ["03-28 01:30", "03-29 01:00", "03-30 00:30"],
    ),
    "Berlin goes forward in 2027": (
        "30 2 * * *", "Europe/Berlin", "2027-03-27T12:00", ["03-28 01:00", "03-29 00:30"],
    ),
    "two times in one gap are one": (
        "0,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00", "03-30 00:30"],
    ),
    "Berlin goes back at 3:00, and 2:30 is the first of the two": (
        "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"],
    ),
    "Berlin goes back in 2027": (
        "30 2 * * *", "Europe/Berlin", "2027-10-30T12:00", ["10-31 00:30", "11-01 01:30"],
    ),
    "asked in the second pass of that hour, it is the next day's": (
        "30 2 * * *", "Europe/Berlin", "2026-10-25T01:10", ["10-26 01:30"],
    ),
    "every hour is every real hour when the clocks go back": (
        "30 * * * *", "Europe/Berlin", "2026-10-24T23:00", ["10-24 23:30", "10-25 00:30", "10-25 01:30", "10-25 02:30"],
    ),
    "every hour is every real hour when they go forward": (
        "30 * * * *", "Europe/Berlin", "2026-03-28T23:00", ["03-28 23:30", "03-29 00:30", "03-29 01:30", "03-29 02:30"],
    ),
    "New York goes forward": (
        "15 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 07:00", "03-09 06:15"],
    ),
    "New York goes back": (
        "15 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 05:15", "11-02 06:15"],
    ),
    "New York goes back in 2027": (
        "15 1 * * *", "America/New_York", "2027-11-06T12:00", ["11-07 05:15", "11-08 06:15"],
    ),
    "Lord Howe goes forward by half an hour at 2:00": (
        "15 2 * * *", "Australia/Lord_Howe", "2026-10-02T12:00", ["10-02 15:45", "10-03 15:30", "10-04 15:15"],
    ),
    "Lord Howe goes back by half an hour at 2:00": (
        "45 1 * * *", "Australia/Lord_Howe", "2027-04-02T12:00", ["04-02 14:45", "04-03 14:45", "04-04 15:15"],
    ),
    "UTC has no changes": (
        "30 2 * * *", "UTC", "2026-03-28T00:00", ["03-28 02:30", "03-29 02:30"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_clock_changes_leave_each_run_once(case: str) -> None:
    cron, zone, after, expected = CHANGES[case]
    assert times(cron, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("@hourly", ["11-26 11:00", "11-26 12:00"]),
        ("@Daily", ["11-27 00:00", "11-28 00:00"]),
        ("  */20  10 * * * ", ["11-26 10:40", "11-27 10:00"]),
        ("0 9 * * MON-FRI", ["11-27 09:00", "11-30 09:00"]),
        ("0 9 * * 5#1", ["12-04 09:00", "01-01 09:00"]),
        ("0 0 L * *", ["11-30 00:00", "12-31 00:00"]),
        ("0 0 13 * 5", ["11-27 00:00", "12-04 00:00"]),
        ("0 0 29 2 *", ["02-29 00:00", "02-29 00:00"]),
    ],
)
def test_an_expression_means_what_debians_cron_makes_of_it(cron: str, expected: list[str]) -> None:
    assert times(cron, "UTC", "2026-11-26T10:20", 2) == expected


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "@every 5m",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 30 2 *",
        "0 0 * * 8",
        "5-1 * * * *",
        "*/0 * * * *",
        "@reboot",
    ],
)
def test_what_cannot_be_read_or_never_comes_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(InvalidCron, match="An example: "):
        Cron(cron, "UTC")


@pytest.mark.parametrize("zone", ["Europe/Berln", "../../etc/passwd", "", "europe/berlin", "Europe", "CEST"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidTimeZone, match="IANA"):
        zone_of(zone)


def test_a_zone_that_was_misspelt_is_suggested() -> None:
    with pytest.raises(InvalidTimeZone, match="Europe/Berlin"):
        zone_of("Europe/Berln")


def test_times_end_with_the_last_year_there_is() -> None:
    assert len(list(Cron("* * * * *", "Europe/Berlin").after(at("9999-12-31T20:00")))) < 24 * 60


def test_the_words_are_expressions_themselves() -> None:
    assert all(list(islice(Cron(word, "UTC").after(at("2026-01-01")), 1)) for word in WORDS)


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu"])
FIELDS = st.tuples(
    st.sampled_from(["*", "0", "30", "*/7", "0,15,59", "10-40/5"]),
    st.sampled_from(["*", "0", "2", "*/5", "1-3", "23"]),
    st.sampled_from(["*", "1", "L", "*/10", "28-31"]),
    st.sampled_from(["*", "3", "4,10", "JAN-JUN"]),
    st.sampled_from(["*", "0", "MON-FRI", "5#1", "6L"]),
).map(" ".join)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@given(FIELDS, ZONES, MOMENTS)
def test_times_grow_lie_behind_the_moment_and_do_not_depend_on_where_one_begins(cron: str, zone: str, moment: datetime) -> None:
    found = list(islice(cron_of(cron, zone).after(moment), 4))
    assert all(one < two for one, two in pairwise([moment, *found]))
    assert all(time.second == time.microsecond == 0 for time in found)
    for place, time in enumerate(found):
        assert list(islice(cron_of(cron, zone).after(time), 3 - place)) == found[place + 1 :]
    if found:
        assert next(cron_of(cron, zone).after(found[0] - timedelta(microseconds=1))) == found[0]


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(DomainError):
        next(Cron(text, "UTC").after(at("2026-01-01")))
