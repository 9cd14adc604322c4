"""Marks: from where on looks begin, and that nothing is below them that a look would have to find."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.storage.marks import BEGINNING, EVERYTHING, SETTLED, PositionMark, TimeMark

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def test_a_look_by_time_begins_a_while_before_the_last_complete_one_and_at_the_beginning_every_minute() -> None:
    mark = TimeMark()
    assert mark.since(100.0) == BEGINNING
    # Not complete: there is more than one batch.
    assert mark.since(101.0) == BEGINNING
    mark.done(NOON)
    assert mark.since(102.0) == NOON - timedelta(seconds=SETTLED)
    assert mark.since(100.0 + EVERYTHING) == BEGINNING


def test_nothing_is_passed_over_before_it_has_settled() -> None:
    mark = PositionMark()
    assert mark.above(0.0) == 0
    mark.seen(None, 500, 1.0)
    assert mark.above(2.0) == 0, "somebody may have taken a position and not committed"
    mark.seen(None, 900, 1.0 + SETTLED)
    assert mark.above(3.0 + SETTLED) == 500
    mark.seen(700, 2000, 1.0 + 2 * SETTLED)
    assert mark.above(2.0 + 2 * SETTLED) == 699, "what waits is not passed over, however old it is"
    assert mark.above(EVERYTHING + 1) == 0


def test_what_is_there_again_is_found_also_when_a_look_has_missed_it() -> None:
    mark = PositionMark()
    mark.above(0.0)
    mark.seen(None, 500, 1.0)
    mark.seen(None, 500, 1.0 + SETTLED)
    mark.back(40)
    assert mark.above(20.0) == 39
    mark.begin()
    mark.back(30)
    mark.seen(None, 600, 21.0)
    assert mark.above(22.0) == 29
    mark.begin()
    mark.seen(None, 600, 23.0)
    assert mark.above(24.0) == 500


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.floats(0, 8)),
        st.tuples(st.just("take"), st.integers(0, 5)),
        st.tuples(st.just("return"), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.floats(0, 20)),
        st.tuples(st.just("look"), st.just(0)),
    ),
    max_size=80,
)


@given(MOVES)
def test_whatever_waits_is_above_the_mark_as_long_as_transactions_end_in_time(moves: list[tuple[str, float]]) -> None:
    mark, now, given_positions = PositionMark(), 0.0, 0
    commits: dict[int, float] = {}
    taken: list[int] = []
    # The first look is over everything in any case.
    mark.above(now)
    for what, number in moves:
        waiting = sorted(position for position, at in commits.items() if at <= now and position not in taken)
        if what == "write":
            given_positions += 1
            commits[given_positions] = now + number
        elif what == "take" and waiting:
            taken.append(waiting[int(number) % len(waiting)])
        elif what == "return" and taken:
            position = taken.pop(int(number) % len(taken))
            mark.back(position)
        elif what == "pass":
            now += number
        elif what == "look":
            mark.begin()
            mark.seen(waiting[0] if waiting else None, given_positions, now)
        waiting = [position for position, at in commits.items() if at <= now and position not in taken]
        # Asked of the mark itself: a look over everything would hide what it says.
        assert all(position > mark._above for position in waiting)
