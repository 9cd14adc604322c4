"""A start is committed only by the newest epoch and by the limits that are, whatever its owner believes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from services.common.db.driver import Driver, open_driver
from services.common.db.engine_role import EngineDriver
from services.common.db.migrations import migrate
from services.common.ids import new_id
from services.scheduler.domain.decision import Start, ToStart
from services.scheduler.domain.fence import EpochOver, Fence, LimitsChanged
from services.scheduler.domain.limits import Limits
from services.scheduler.domain.ready import WINDOW
from services.scheduler.domain.task import NewTask
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.decided_queues import DecidedQueues, QueueList
from services.scheduler.storage.decisions import DecisionStatements
from services.scheduler.storage.dispatch_owners import DispatchOwners
from services.scheduler.usecases.hub import Hub
from tests.integration.scheduler.conftest import MakeSettings, unique
from tests.integration.scheduler.queue_rows import QueueRows

TENANT = "acme"
LIMITS = Limits(max_running=5)


class Replica:
    """What one scheduler asks of the database, without a process around it."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.name = name
        self.engine = EngineDriver(driver)
        hub = Hub(name)
        self.owners = DispatchOwners(self.engine, timedelta(seconds=0.3))
        self.decisions = DecisionStatements(self.engine, self.owners, hub, timedelta(seconds=30))
        self.list = QueueList(self.engine)
        self.decided = DecidedQueues(self.engine)
        self.batches = Batches(self.engine, hub, timedelta(seconds=30), self.decided)

    async def take_over(self) -> int:
        """Stands until it is elected; gives its epoch."""
        async with asyncio.timeout(10):
            while (await self.owners.stand(self.name, self.name, [])).owner != self.name:  # noqa: ASYNC110 - a lease must end
                await asyncio.sleep(0.02)
        epoch = await self.decisions.take_over(self.name)
        assert epoch is not None
        return epoch

    async def fence(self, epoch: int) -> Fence:
        """What is decided by from now on."""
        return Fence(epoch, (await self.list.queues()).version)


@pytest.fixture
def queue() -> str:
    return unique("q")


@pytest.fixture
def rows(empty_database_url: str, queue: str, scheduler_settings: MakeSettings) -> Iterator[QueueRows]:
    settings = scheduler_settings(database_url=SecretStr(empty_database_url))
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    rows = QueueRows(empty_database_url)
    rows.add(queue, max_running=5)
    yield rows
    rows.close()


@pytest.fixture
async def driver(empty_database_url: str, rows: QueueRows, scheduler_settings: MakeSettings) -> AsyncIterator[Driver]:
    async with open_driver(scheduler_settings(database_url=SecretStr(empty_database_url)), "scheduler") as driver:
        yield driver


@pytest.fixture
async def task_id(driver: Driver, queue: str) -> str:
    """A task that is decided on."""
    replica = Replica(driver, "creator")
    task_id = new_id()
    await replica.batches.create([NewTask(task_id, TENANT, "ada", b"", "it", queue=queue, kind="k", concurrency_key="x")])
    (seen,) = await replica.decisions.look([task_id])
    assert (seen.waiting, seen.head.key, seen.head.lane.queue_tenant) == (True, "x", "*")
    return task_id


def to_start(task_id: str, *, here: bool = True) -> list[ToStart]:
    return [ToStart(task_id, "w", here)]


async def test_a_start_of_an_older_epoch_is_refused(driver: Driver, queue: str, task_id: str) -> None:
    old, new = Replica(driver, "old"), Replica(driver, "new")
    epoch = await old.take_over()
    newer = await new.take_over()
    assert newer == epoch + 1
    with pytest.raises(EpochOver):
        await old.decisions.start(await old.fence(epoch), to_start(task_id))
    with pytest.raises(EpochOver):
        await old.list.release(epoch, [("*", queue)])
    (seen,) = await new.decisions.look([task_id])
    assert seen.waiting
    (lease,) = await new.decisions.start(await new.fence(newer), to_start(task_id))
    assert (lease.run.attempt, lease.run.worker_id, lease.spec) == (1, "w", b"")
    # Who is not the owner cannot begin an epoch, whatever it believes.
    assert await old.decisions.take_over("old") is None


async def test_a_take_over_waits_for_a_start_that_is_under_way_and_then_sees_it(
    driver: Driver, queue: str, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Replica(driver, "old"), Replica(driver, "new")
    epoch = await old.take_over()
    written, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str, cut: object = None) -> None:
        if name == "scheduler.decide.before_commit":
            written.set()
            await go_on.wait()

    monkeypatch.setattr("services.scheduler.storage.decisions.fail_point", hold)
    starting = asyncio.create_task(old.decisions.start(await old.fence(epoch), to_start(task_id)))
    await written.wait()
    taking = asyncio.create_task(new.take_over())
    done, _ = await asyncio.wait({taking}, timeout=0.5)
    assert not done
    go_on.set()
    assert len(await starting) == 1
    await taking
    running, pages = await new.decisions.everything(WINDOW)
    assert ([seen.head.task_id for seen in running], list(pages)) == ([task_id], [])


async def test_a_replica_that_stands_still_in_a_start_does_not_keep_another_from_taking_over(
    driver: Driver, queue: str, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Replica(driver, "old"), Replica(driver, "new")
    epoch = await old.take_over()
    written, never = asyncio.Event(), asyncio.Event()

    async def hold(name: str, cut: object = None) -> None:
        if name == "scheduler.decide.before_commit":
            written.set()
            await never.wait()

    monkeypatch.setattr("services.scheduler.storage.decisions.fail_point", hold)
    starting = asyncio.create_task(old.decisions.start(await old.fence(epoch), to_start(task_id)))
    await written.wait()
    async with asyncio.timeout(3):
        await new.take_over()
    running, pages = await new.decisions.everything(WINDOW)
    assert not running
    assert [head.task_id for page in pages for head in page.heads] == [task_id]
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def test_a_start_by_limits_that_are_no_more_is_refused(driver: Driver, queue: str, task_id: str, rows: QueueRows) -> None:
    replica = Replica(driver, "r")
    epoch = await replica.take_over()
    for change in ({"paused": True}, {"paused": False, "max_running": 1}, {"tenant_weights": '{"acme": 2}'}):
        fence = await replica.fence(epoch)
        rows.change(queue, **change)
        with pytest.raises(LimitsChanged):
            await replica.decisions.start(fence, to_start(task_id))
    assert (await replica.list.queues()).limits["*", queue] == Limits(max_running=1, weights=(("acme", 2.0),))
    assert len(await replica.decisions.start(await replica.fence(epoch), to_start(task_id))) == 1


async def test_a_change_of_a_queue_waits_for_starts_that_are_under_way_and_none_passes_it(
    driver: Driver, queue: str, task_id: str, rows: QueueRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(driver, "r")
    epoch = await replica.take_over()
    fence = await replica.fence(epoch)
    written, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str, cut: object = None) -> None:
        if name == "scheduler.decide.before_commit":
            written.set()
            await go_on.wait()

    monkeypatch.setattr("services.scheduler.storage.decisions.fail_point", hold)
    starting = asyncio.create_task(replica.decisions.start(fence, to_start(task_id)))
    await written.wait()
    changing = asyncio.create_task(asyncio.to_thread(rows.change, queue, max_running=1))
    done, _ = await asyncio.wait({changing}, timeout=0.3)
    assert not done
    monkeypatch.undo()
    # The lock is in line: who comes later than the change waits for it, and is refused then.
    later = asyncio.create_task(replica.decisions.start(fence, to_start(task_id)))
    done, _ = await asyncio.wait({later}, timeout=0.3)
    assert not done
    go_on.set()
    assert len(await starting) == 1
    await changing
    with pytest.raises(LimitsChanged):
        await later


async def test_a_new_task_is_started_as_decided_or_not_created_at_all(driver: Driver, queue: str, task_id: str) -> None:
    old, new = Replica(driver, "old"), Replica(driver, "new")
    fence = await old.fence(await old.take_over())

    def a_task() -> NewTask:
        # Decided to start at once.
        return NewTask(new_id(), TENANT, "ada", b"", "it", queue=queue, kind="k", worker_id="w", queue_tenant="*")

    started, waits = a_task(), NewTask(new_id(), TENANT, "ada", b"", "it", queue=queue, kind="k", worker_id="w")
    await old.batches.create([started, waits], fence)
    seen = {seen.head.task_id: seen for seen in await new.decisions.look([started.task_id, waits.task_id])}
    assert (seen[started.task_id].running, seen[started.task_id].head.attempt) == (True, 1)
    # Nobody had decided on this one, whatever worker it was for; its place in the line is known to whoever created it.
    assert (seen[waits.task_id].waiting, waits.worker_id) == (True, None)
    assert waits.run is not None
    assert seen[waits.task_id].head.place == (-5, waits.run.position)
    await new.take_over()
    late = a_task()
    with pytest.raises(EpochOver):
        await old.batches.create([late], fence)
    assert not await new.decisions.look([late.task_id])


async def test_a_worker_elsewhere_gets_the_whole_task_by_its_attempt(driver: Driver, queue: str, task_id: str) -> None:
    replica = Replica(driver, "r")
    epoch = await replica.take_over()
    (lease,) = await replica.decisions.start(await replica.fence(epoch), to_start(task_id, here=False))
    assert lease.spec is None
    (read,) = await replica.decisions.started([Start(1, "w", task_id, 1)])
    assert (read.run.task_id, read.run.worker_id, read.spec, read.run.queue_tenant) == (task_id, "w", b"", "*")
    assert await replica.decisions.started([Start(1, "w", task_id, 2)]) == []


@pytest.mark.parametrize("limit", ["deadline", "start_by"])
async def test_what_has_no_time_left_is_not_tried_again_whether_or_not_it_was_ended(
    driver: Driver, queue: str, task_id: str, rows: QueueRows, limit: str
) -> None:
    replica = Replica(driver, "r")
    epoch = await replica.take_over()
    (seen,) = await replica.decisions.look([task_id])
    lane, key = seen.head.lane, (("*", queue), "x")
    before = (-100, 0)

    async def found() -> list[str]:
        """What would be started, by whichever way it is read."""
        (looked,) = await replica.decisions.look([task_id])
        _, lanes = await replica.decisions.everything(WINDOW)
        pages = await replica.decisions.pages([(lane, before)], WINDOW)
        [of_key] = await replica.decisions.of_keys([key], WINDOW)
        ways = {"look": looked.waiting, "lanes": any(page.heads for page in lanes if page.lane == lane)}
        return [way for way, there in (ways | {"pages": pages[0].heads, "of_keys": of_key}).items() if there]

    assert await found() == ["look", "lanes", "pages", "of_keys"]
    rows.query(f"UPDATE scheduler.tasks SET {limit} = clock_timestamp() WHERE task_id = %s", task_id)
    assert await replica.decisions.start(await replica.fence(epoch), to_start(task_id)) == []
    assert await found() == []
