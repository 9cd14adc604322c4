"""What the replica that decides makes of its memory: never above a limit, and shares by weight of slot-seconds."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.demand_book import Want
from services.scheduler.domain.head import Head, LaneKey, Page, Seen
from services.scheduler.domain.limits import Limits
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.ready import OF_KEY, Ready

Q = ("*", "q")
ANY = Demand(None, frozenset({"k"}), frozenset())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def head(number: int, tenant: str = "a", *, key: str | None = None, priority: int = 5, queue: str = "q", kind: str = "k") -> Head:
    return Head(f"t{number}", LaneKey("*", queue, tenant, kind), key, (-priority, number), 0)


def slots(number: int, demand: Demand = ANY) -> list[Want[str]]:
    want = Want("r", 1, demand)
    if number:
        want.offer("w", number)
    return [want]


def ended(ready: Ready, *task_ids: str) -> None:
    ready.see(task_ids, [])


def taken(ready: Ready, number: int, demand: Demand = ANY) -> list[str]:
    return [each.task_id for each, *_ in ready.take(slots(number, demand), 500)]


def make(clock: Callable[[], float] | None = None, **limits: Any) -> Ready:
    ready = Ready(clock or Clock())
    ready.limit({Q: Limits(**limits)})
    return ready


def test_no_more_run_than_may_and_an_end_makes_room() -> None:
    ready = make(max_running=2)
    for number in range(5):
        ready.add(head(number))
    assert (ready.startable(ANY, 500)[0], taken(ready, 9)) == (2, ["t0", "t1"])
    assert (ready.startable(ANY, 500)[0], taken(ready, 9)) == (0, [])
    ended(ready, "t1")
    assert taken(ready, 9) == ["t2"]
    assert ready.throttled["q", "max_running"] >= 2


def test_of_a_key_no_more_run_than_may_and_the_others_pass_by() -> None:
    ready = make(max_running_per_key=1)
    for number, key in enumerate(("x", "x", "x", "y", None)):
        ready.add(head(number, key=key))
    assert taken(ready, 9) == ["t0", "t3", "t4"]
    ended(ready, "t0")
    assert taken(ready, 9) == ["t1"]
    ready.limit({Q: Limits()})
    assert taken(ready, 9) == ["t2"]


def test_of_a_full_key_the_table_remembers_the_rest() -> None:
    ready = make(max_running_per_key=1)
    for number in range(OF_KEY + 10):
        ready.add(head(number, key="x"))
    assert taken(ready, 100) == ["t0"]
    for number in range(OF_KEY):
        ended(ready, f"t{number}")
        assert taken(ready, 100) == [f"t{number + 1}"]
    ended(ready, f"t{OF_KEY}")
    assert ready.hungry() == [(Q, "x")]
    ready.add_of_key((Q, "x"), [head(number, key="x") for number in range(OF_KEY + 1, OF_KEY + 10)])
    assert taken(ready, 100) == [f"t{OF_KEY + 1}"]


def test_priority_comes_before_age_within_a_tenant_and_a_queue_of_higher_priority_before_others() -> None:
    ready = Ready(Clock())
    ready.limit({("*", "high"): Limits(priority=9), Q: Limits(priority=5)})
    for each in (head(0), head(1, priority=9), head(2, queue="high")):
        ready.add(each)
    assert taken(ready, 9) == ["t2", "t1", "t0"]


def test_what_is_paused_does_not_start_and_goes_on_after_it() -> None:
    ready = make(paused=True)
    ready.add(head(0))
    assert (ready.startable(ANY, 500)[0], taken(ready, 1), ready.pause()) == (0, [], None)
    ready.limit({Q: Limits()})
    assert taken(ready, 1) == ["t0"]


def test_a_rate_begins_empty_saves_up_a_burst_and_says_when_to_come_again() -> None:
    clock = Clock()
    ready = make(clock, rate_per_second=2.0, rate_burst=3)
    for number in range(20):
        ready.add(head(number))
    assert taken(ready, 9) == []
    assert ready.pause() == pytest.approx(0.5)
    clock.now += ready.pause() or 0
    assert len(taken(ready, 9)) == 1
    clock.now += 100
    assert len(taken(ready, 9)) == 3


def test_a_start_that_did_not_come_about_gives_everything_back() -> None:
    clock = Clock()
    ready = make(clock, max_running=1, rate_per_second=1.0, rate_burst=1)
    clock.now = 1
    ready.add(head(0, key="x"))
    ((first, *_),) = ready.take(slots(1), 500)
    ready.give_back(first)
    ready.see(["t0"], [Seen(head(0, key="x"), False, True)])
    assert taken(ready, 1) == ["t0"]


@pytest.mark.parametrize(
    ("demand", "found"),
    [
        (Demand("a", frozenset({"k"}), frozenset()), ["t0"]),
        (Demand(None, frozenset({"k"}), frozenset({"other"})), ["t2"]),
        (Demand(None, frozenset({"m", "k"}), frozenset()), ["t0", "t1", "t2", "t3"]),
        (Demand("c", frozenset({"k"}), frozenset()), []),
    ],
)
def test_a_worker_gets_only_what_it_asked_for(demand: Demand, found: list[str]) -> None:
    ready = make()
    for each in (head(0), head(1, "b"), head(2, "b", queue="other"), head(3, kind="m")):
        ready.add(each)
    assert ready.startable(demand, 500)[0] == len(found)
    assert sorted(taken(ready, 9, demand)) == found
    rest = {"t0", "t1", "t2", "t3"} - set(found)
    assert set(taken(ready, 9, Demand(None, frozenset({"m", "k"}), frozenset()))) == rest


def test_what_was_seen_before_a_start_is_not_believed() -> None:
    ready = make()
    ready.add(head(0))
    assert taken(ready, 1) == ["t0"]
    ready.see(["t0"], [Seen(head(0), False, True)])
    assert set(ready.running) == {"t0"}
    again = Head("t0", head(0).lane, None, (-5, 0), 1)
    ready.see(["t0"], [Seen(again, False, True)])
    assert not ready.running
    assert taken(ready, 1) == ["t0"]
    assert ready.running["t0"].attempt == 2
    # It waits for a moment or a signal: its slot is free, and it is not to be started.
    ready.see(["t0"], [Seen(Head("t0", head(0).lane, None, (-5, 0), 2), False, False)])
    assert (ready.running, taken(ready, 1)) == ({}, [])


def test_a_long_lane_is_read_in_parts_and_what_comes_behind_waits_for_its_part() -> None:
    ready = make()
    lane = head(0).lane
    ready.add_page(Page(lane, [head(number) for number in range(100)], True))
    ready.add(head(500))
    ready.add(head(501, priority=9))
    assert taken(ready, 500) == ["t501", *(f"t{number}" for number in range(100))]
    assert ready.low() == [(lane, (-5, 99))]
    ready.add_page(Page(lane, [head(500)], False))
    assert taken(ready, 1) == ["t500"]
    for number in range(1000, 2000):
        ready.add(head(number))
    assert len(taken(ready, 1000)) == 400
    assert ready.low() == [(lane, (-5, 1399))]


LENGTHS = st.floats(0.01, 5)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", None]), st.integers(1, 10), LENGTHS), max_size=60),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_never_above_a_limit_and_everything_starts(
    tasks: list[tuple[str, str | None, int, float]], most: int, per_key: int, workers: int, chance: random.Random
) -> None:
    clock = Clock()
    ready = make(clock, max_running=most, max_running_per_key=per_key)
    coming = [head(number, tenant, key=key, priority=priority) for number, (tenant, key, priority, _) in enumerate(tasks)]
    running: list[tuple[float, str]] = []
    started: list[str] = []
    while coming or running or ready.startable(ANY, 500)[0]:
        for _ in range(chance.randint(0, 5)):
            if coming:
                ready.add(coming.pop(0))
        for each, *_ in ready.take(slots(workers - len(running)), 500):
            started.append(each.task_id)
            heapq.heappush(running, (clock.now + tasks[int(each.task_id[1:])][3], each.task_id))
        keys = Counter(tasks[int(task_id[1:])][1] for _, task_id in running)
        del keys[None]
        assert len(running) <= min(most, workers)
        assert all(number <= per_key for number in keys.values())
        if running:
            clock.now, task_id = heapq.heappop(running)
            ended(ready, task_id)
    assert sorted(started) == sorted(f"t{number}" for number in range(len(tasks)))


WEIGHTS = {"a": 5.0, "b": 3.0, "c": 2.0}


def simulate(chance: random.Random, slots_there: int, seconds: float) -> tuple[list[tuple[str, float, float]], list[float]]:
    """Backlogs of 10,000 tasks of 10 ms to 10 s, of half a second, and 100 of 10 s; and a tenant with hardly any work.

    Gives each run with its tenant, start and end, and how long the tasks of the small tenant waited.
    """
    clock = Clock()
    ready = make(clock, max_running=slots_there, weights=tuple((WEIGHTS | {"small": 1.0}).items()))
    length: dict[str, Callable[[], float]] = {
        "a": lambda: math.exp(chance.uniform(math.log(0.01), math.log(10))),
        "b": lambda: 0.5,
        "c": lambda: 10.0,
        "small": lambda: 0.01,
    }
    number = 0
    waiting: Counter[str] = Counter()

    def add(tenant: str) -> None:
        nonlocal number
        number += 1
        waiting[tenant] += 1
        since[f"t{number}"] = clock.now
        ready.add(head(number, tenant))

    since: dict[str, float] = {}
    running: list[tuple[float, str]] = []
    runs: list[tuple[str, float, float]] = []
    waits: list[float] = []
    next_small = next_tick = 0.0
    while clock.now < seconds:
        for tenant, kept in (("a", 200), ("b", 200), ("c", 100)):
            while waiting[tenant] < kept:
                add(tenant)
        if clock.now >= next_small:
            next_small = clock.now + 1
            add("small")
        if clock.now >= next_tick:
            next_tick = clock.now + 0.25
            ready.tick()
        for each, *_ in ready.take(slots(slots_there - len(running)), 500):
            tenant = each.lane.tenant_id
            waiting[tenant] -= 1
            end = clock.now + length[tenant]()
            heapq.heappush(running, (end, each.task_id))
            runs.append((tenant, clock.now, end))
            if tenant == "small":
                waits.append(clock.now - since[each.task_id])
        clock.now = min(running[0][0], next_small, next_tick)
        while running and running[0][0] <= clock.now:
            ended(ready, heapq.heappop(running)[1])
    return runs, waits


def worst_minute(runs: list[tuple[str, float, float]], seconds: float) -> float:
    """The greatest distance of a tenant's share from its weight's in any minute, in percentage points."""
    worst = 0.0
    for begin in range(0, int(seconds) - 60, 5):
        used = {
            tenant: sum(max(0.0, min(end, begin + 60) - max(start, begin)) for name, start, end in runs if name == tenant)
            for tenant in WEIGHTS
        }
        total = sum(used.values())
        worst = max(worst, *(abs(used[name] / total - weight / 10) * 100 for name, weight in WEIGHTS.items()))
    return worst


@pytest.mark.parametrize("seed", range(3))
def test_slot_seconds_are_shared_by_weight_in_any_minute_and_a_small_tenant_hardly_waits(seed: int) -> None:
    runs, waits = simulate(random.Random(seed), 30, 300)
    assert worst_minute(runs, 300) <= 5
    assert len(waits) > 250
    assert sorted(waits)[int(len(waits) * 0.99)] < 2 * 10


def test_who_has_nothing_to_do_is_forgotten_and_comes_back() -> None:
    ready = make(max_running=3, max_running_per_key=1)
    for number in range(3):
        ready.add(head(number, f"tenant-{number}", key=f"key-{number}"))
    assert len(taken(ready, 9)) == 3
    ready.prune()
    assert len(ready.usage()[Q][1]) == 3
    ended(ready, "t0", "t1", "t2")
    ready.add(head(3, "tenant-0"))
    assert len(taken(ready, 1)) == 1
    ended(ready, "t3")
    ready.prune()
    ready.add(head(4, "tenant-1", key="key-1"))
    assert taken(ready, 1) == ["t4"]


def test_what_was_started_another_way_counts_and_is_looked_at_again() -> None:
    ready = make(max_running=1)
    ready.see(["t0"], [Seen(head(0), True, False)])
    ready.add(head(1))
    assert (taken(ready, 9), ready.doubtful(-1)) == ([], ["t0"])
    ready.see(ready.doubtful(-1), [])
    assert (taken(ready, 9), ready.doubtful(-1)) == (["t1"], [])
