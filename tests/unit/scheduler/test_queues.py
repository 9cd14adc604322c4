"""What is remembered of queues, what a new task takes from one, and who may change which."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from services.common.errors import InvalidRequest
from services.scheduler.domain.errors import QueueNotFound, SharedQueue
from services.scheduler.domain.queue import EVERY_TENANT, Queue, check_change
from services.scheduler.domain.task import NewTask, Times
from services.scheduler.domain.wake import Wake, decode_decided, everything
from services.scheduler.usecases import queues as module
from services.scheduler.usecases.create_queue import check_weights
from services.scheduler.usecases.queues import Queues, put_in


class Rows:
    """The queues of every tenant, and how often somebody has read them."""

    def __init__(self) -> None:
        self.found = [Queue("q", 5)]
        self.own: dict[str, list[Queue]] = {}
        self.reads: list[str] = []
        self.reading = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def owners(self) -> Collection[str]:
        return {EVERY_TENANT, *self.own}

    async def owned(self, owner: str) -> Sequence[Queue]:
        found = list(self.found if owner == EVERY_TENANT else self.own[owner])
        self.reads.append(owner)
        self.reading.set()
        await self.go_on.wait()
        return found


async def test_queues_are_read_once_for_each_owner_and_again_when_these_have_changed() -> None:
    rows = Rows()
    rows.own["acme"] = [Queue("q", 9, tenant_id="acme")]
    queues = Queues(rows, 7)
    assert await queues.of("acme", "q") is await queues.of("acme", "q")
    assert ((await queues.of("acme", "q")).retention_days, (await queues.of("acme", "q")).priority) == (7, 9)
    # A tenant without queues of its own is not asked for any, and the shared ones are the same for all.
    assert await queues.of("globex", "q") is await queues.of("third", "q")
    assert rows.reads == ["acme", EVERY_TENANT]
    queues.woken(Wake(queues={"acme"}))
    for tenant in ("acme", "globex", "acme"):
        await queues.of(tenant, "q")
    assert rows.reads == ["acme", EVERY_TENANT, "acme"]
    queues.woken(Wake(queues={EVERY_TENANT}))
    for tenant in ("acme", "globex", "acme"):
        await queues.of(tenant, "q")
    assert rows.reads[3:] == [EVERY_TENANT]
    # After a lost connection anything may have changed.
    queues.woken(everything())
    for tenant in ("acme", "globex", "acme"):
        await queues.of(tenant, "q")
    assert rows.reads[4:] == ["acme", EVERY_TENANT]
    queues.woken(Wake(kinds={"k"}))
    await queues.of("acme", "q")
    assert len(rows.reads) == 6


async def test_a_tenants_first_own_queue_takes_the_place_of_the_shared_one() -> None:
    rows = Rows()
    queues = Queues(rows)
    assert (await queues.of("acme", "q")).priority == 5
    rows.own["acme"] = [Queue("q", 9, tenant_id="acme")]
    queues.woken(Wake(queues={"acme"}))
    assert (await queues.of("acme", "q")).priority == 9
    del rows.own["acme"]
    queues.woken(Wake(queues={"acme"}))
    assert (await queues.of("acme", "q")).priority == 5


async def test_what_changes_while_it_is_read_is_not_remembered_as_it_was() -> None:
    rows = Rows()
    queues = Queues(rows)
    rows.go_on.clear()
    reading = asyncio.create_task(queues.of("acme", "q"))
    await rows.reading.wait()
    rows.found = [Queue("q", 9)]
    queues.woken(Wake(queues={EVERY_TENANT}))
    rows.go_on.set()
    assert (await reading).priority == 5
    assert (await queues.of("acme", "q")).priority == 9


async def test_a_queue_is_read_again_after_a_minute_and_an_unknown_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    queues = Queues(rows)
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for later, reads in ((0, 1), (60, 1), (1, 2)):
        now += later
        await queues.of("acme", "q")
        assert len(rows.reads) == reads
    with pytest.raises(QueueNotFound, match="'x'; the queues are: q"):
        await queues.of("acme", "x")
    rows.found.append(Queue("x", 5))
    await queues.of("acme", "x")


def test_a_change_of_queues_is_told_by_the_owner() -> None:
    wake = decode_decided("@acme")
    assert (wake.queues, wake.kinds, wake.decided) == ({"acme"}, set(), [])
    wake.add(decode_decided("@*"))
    wake.add(Wake(queues={"globex"}))
    assert wake.queues == {"acme", "*", "globex"}
    wake.add(everything())
    assert wake.queues is None


def a_task(**fields: object) -> NewTask:
    return replace(NewTask("1", "acme", "ada", b"spec", "x"), **fields)  # type: ignore[arg-type]


def test_a_new_task_takes_what_it_does_not_say() -> None:
    queue = Queue("q", 8, 90, max_attempts=2, retry="{}", max_attempts_spec=b"+2", retry_spec=b"+r")
    task = a_task(own_max_attempts=False)
    put_in(task, queue)
    assert (task.queue_priority, task.retention_days, task.max_attempts, task.times) == (8, 90, 2, Times(retry="{}"))
    assert task.spec == b"spec+2+r"
    own = a_task(max_attempts=7, times=Times(delay_ms=5, retry="own"))
    put_in(own, queue)
    assert (own.max_attempts, own.times, own.spec) == (7, Times(delay_ms=5, retry="own"), b"spec")
    timed = a_task(times=Times(delay_ms=5))
    put_in(timed, queue)
    assert (timed.times, timed.spec) == (Times(delay_ms=5, retry="{}"), b"spec+r")
    # A queue that says nothing costs nothing: no times, no other spec.
    plain = a_task(own_max_attempts=False)
    put_in(plain, Queue("q", 5, 30))
    assert (plain.times, plain.spec, plain.max_attempts) == (None, b"spec", 5)


def test_a_shared_queue_takes_an_operator_and_weights_take_a_shared_queue() -> None:
    own = Queue("q", tenant_id="acme")
    assert check_change(own, operator=False) is own
    assert check_change(Queue("q"), operator=True).shared
    with pytest.raises(SharedQueue, match="operator"):
        check_change(Queue("q"), operator=False)
    check_weights(Queue("q", tenant_weights={"acme": 2.0}))
    with pytest.raises(InvalidRequest, match="shared"):
        check_weights(replace(own, tenant_weights={"acme": 2.0}))
