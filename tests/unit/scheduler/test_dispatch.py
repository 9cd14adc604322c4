"""A new task goes to a waiting worker at once, unless others wait for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest

from services.common.errors import Unavailable
from services.common.ids import new_id
from services.scheduler.domain.decision import Answer, Decisions, Message, Start
from services.scheduler.domain.dependency import Dependency
from services.scheduler.domain.errors import RequestIdReused
from services.scheduler.domain.fence import EpochOver, Fence, LimitsChanged
from services.scheduler.domain.head import Head, LaneKey
from services.scheduler.domain.ports import Demand, TaskBatches
from services.scheduler.domain.queue import Queue
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import Lease, NewTask, State, Task
from services.scheduler.domain.wake import Wake
from services.scheduler.usecases.create_task import CreateTask
from services.scheduler.usecases.decide_starts import DecideStarts
from services.scheduler.usecases.dispatch import Dispatcher
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.offer_slots import SlotOffers
from services.scheduler.usecases.queues import Queues
from tests.support.runs import NOW, a_run

ANY = Demand(None, frozenset({"k"}), frozenset())


class Taker:
    def __init__(self, worker_id: str, credits: int) -> None:
        self.worker_id = worker_id
        self.credits = credits
        self.leases: list[Lease] = []

    def take(self, leases: Sequence[Lease]) -> None:
        self.leases += leases

    def release(self, credits: int) -> None:
        self.credits += credits


class Batches:
    """Nothing waits; creates are answered as they are, or fail."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        """whether looks for waiting tasks come to an end."""
        self.answers.set()
        self.waiting: list[Lease] = []
        self.problem: Exception | None = None
        self.answer: Any = None
        self.created: list[NewTask] = []
        self.fences: list[Fence | None] = []
        self.over: Exception | None = None
        """what is raised for whatever was decided."""

    async def lease(self, demand: Demand, workers: Sequence[str]) -> Sequence[Lease]:
        self.asked.set()
        await self.answers.wait()
        found, self.waiting = self.waiting[: len(workers)], self.waiting[len(workers) :]
        return found

    async def create(self, tasks: Sequence[NewTask], fence: Fence | None = None) -> Sequence[Any]:
        self.created += tasks
        self.fences.append(fence)
        if fence is not None and self.over is not None:
            raise self.over
        if self.problem is not None:
            raise self.problem
        for task in tasks:
            task.run = run_of(task)
            task.run.queue_tenant = "*" if task.queue == "research" and fence is not None else None
            if task.worker_id is not None:
                task.run.start(task.worker_id, NOW, timedelta(seconds=15))
        return [self.answer or Task(task.task_id, task.tenant_id, task.spec, NOW) for task in tasks]


def run_of(task: NewTask) -> Run:
    return a_run(
        tenant_id=task.tenant_id, task_id=task.task_id, queue=task.queue, kind=task.kind, priority=task.priority,
        timeout_ms=task.timeout_ms,
    )  # fmt: skip


class TwoQueues:
    async def of(self, tenant_id: str, queue: str) -> Queue:
        return {"code": Queue("code", 5, 30), "research": Queue("research", 10, 0)}[queue]


def a_task(**fields: Any) -> NewTask:
    values: dict[str, Any] = {"task_id": new_id(), "tenant_id": "acme", "created_by": "ada", "spec": b"", "description": "x"}
    return NewTask(**(values | {"kind": "k", "queue": "code"} | fields))


class Decided:
    """Queues that one replica decides for."""

    def __init__(self) -> None:
        self.queues: set[str] = set()

    def tenant_of(self, tenant_id: str, queue: str) -> str | None:
        return "*" if queue in self.queues else None


class Decide:
    """Decides with room for so many."""

    def __init__(self) -> None:
        self.fence: Fence | None = None
        self.room = 0
        self.wait = 0
        self.running: list[str] = []
        self.waiting: list[str] = []
        self.told: list[str] = []

    def startable(self, demand: Demand) -> int:
        return self.wait

    def begin_new(self, lane: LaneKey, task_id: str, key: str | None, priority: int) -> Head | None:
        if len(self.running) >= self.room:
            return None
        self.running.append(task_id)
        return Head(task_id, lane, key, (-priority, 0), 1)

    def give_back(self, head: Head) -> None:
        self.running.remove(head.task_id)

    def add_new(self, heads: Iterable[Head]) -> None:
        self.waiting += [head.task_id for head in heads]

    def look_again(self) -> None:
        self.told.append("look again")

    def doubt(self) -> None:
        self.told.append("doubt")


class World:
    def __init__(self) -> None:
        self.hub = Hub("me")
        self.batches = Batches()
        self.offers = SlotOffers(cast(Decisions, None))
        self.joined: set[Demand] = set()
        self.decided = Decided()
        self.decide = Decide()
        decide = cast(DecideStarts, self.decide)
        self.dispatcher = Dispatcher(cast(TaskBatches, self.batches), self.hub, 60.0, self.offers, self.decided, decide)
        self.create = CreateTask(cast(TaskBatches, self.batches), cast(Queues, TwoQueues()), self.dispatcher)

    async def join(self, taker: Taker, demand: Demand = ANY) -> None:
        """Adds a worker and waits until its lane, when it is the first in it, has found nothing."""
        self.batches.asked.clear()
        self.dispatcher.join(demand, taker)
        if demand not in self.joined:
            await self.batches.asked.wait()
        self.joined.add(demand)
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> Any:
    world = World()
    yield world
    await world.dispatcher.close()


async def test_a_waiting_worker_gets_a_new_task_in_the_moment_it_is_created(world: World) -> None:
    taker = Taker("w", 1)
    await world.join(taker)
    task = a_task(timeout_ms=7000)
    answer = await world.create.execute(task)
    assert (answer.state, answer.attempt) == (State.PENDING, 0)
    assert (task.worker_id, taker.credits) == ("w", 0)
    (lease,) = taker.leases
    assert (lease.run.task_id, lease.run.state, lease.run.attempt) == (task.task_id, State.RUNNING, 1)
    assert (lease.create_time, lease.run.start_time, lease.remaining) == (NOW, NOW, timedelta(seconds=7))
    await world.create.execute(second := a_task())
    assert second.worker_id is None


async def test_the_most_urgent_of_a_batch_gets_the_only_credit(world: World) -> None:
    taker = Taker("w", 1)
    await world.join(taker)
    tasks = [a_task(), a_task(priority=9), a_task(queue="research", priority=1)]
    await world.create.execute_all(tasks)
    assert [task.worker_id for task in tasks] == [None, None, "w"]


async def test_tasks_spread_over_the_workers(world: World) -> None:
    takers = [Taker("a", 2), Taker("b", 2)]
    for taker in takers:
        await world.join(taker)
    await world.create.execute_all([a_task() for _ in range(4)])
    assert [len(taker.leases) for taker in takers] == [2, 2]


@pytest.mark.parametrize(
    ("demand", "fields"),
    [
        (Demand("globex", frozenset({"k"}), frozenset()), {}),
        (Demand(None, frozenset({"k"}), frozenset({"research"})), {}),
        (Demand(None, frozenset({"other"}), frozenset()), {}),
    ],
)
async def test_a_worker_gets_only_what_it_asked_for(world: World, demand: Demand, fields: dict[str, Any]) -> None:
    taker = Taker("w", 1)
    await world.join(taker, demand)
    await world.create.execute(task := a_task(**fields))
    assert (task.worker_id, taker.credits, taker.leases) == (None, 1, [])


async def test_who_waits_goes_first(world: World) -> None:
    taker = Taker("w", 1)
    await world.join(taker)
    # Another process has created tasks of the kind; until this one has looked they come before any new one.
    world.batches.answers.clear()
    world.hub.notified(Wake(kinds={"k"}, origin="another"))
    await world.create.execute(task := a_task())
    assert task.worker_id is None
    world.batches.answers.set()


async def test_who_waits_goes_before_a_later_one_though_a_worker_joins_while_it_is_created(world: World) -> None:
    claims = world.dispatcher.claim([a_task()])
    # Its lane looks before the task is there to be seen.
    await world.join(taker := Taker("w", 1))
    world.batches.answers.clear()
    claims.settle(created=True)
    await world.create.execute(later := a_task())
    assert later.worker_id is None
    assert taker.leases == []
    world.batches.answers.set()


async def test_a_credit_that_no_waiting_task_has_a_claim_to_is_spent_at_once(world: World) -> None:
    taker = Taker("w", 1)
    await world.join(taker)
    first, second, third = a_task(), a_task(), a_task()
    await world.create.execute_all([first, second])
    assert [first.worker_id, second.worker_id] == ["w", None]
    taker.credits = 1
    await world.create.execute(third)
    # The second has waited longer.
    assert third.worker_id is None
    taker.credits = 3
    await world.create.execute(fourth := a_task())
    assert fourth.worker_id == "w"


async def test_credits_ask_the_database_only_when_something_may_wait_there(world: World) -> None:
    taker = Taker("w", 1)
    await world.join(taker)
    world.batches.asked.clear()
    taker.credits += 1
    world.dispatcher.more(ANY)
    await asyncio.sleep(0.01)
    assert not world.batches.asked.is_set()
    taker.credits = 0
    await world.create.execute(a_task())
    taker.credits = 1
    world.dispatcher.more(ANY)
    await asyncio.wait_for(world.batches.asked.wait(), 5)


async def test_tasks_that_may_have_been_created_are_looked_for(world: World) -> None:
    taker = Taker("w", 1)
    await world.join(taker)
    taker.credits = 0
    world.batches.problem = Unavailable("the answer to the commit was lost")
    with pytest.raises(Unavailable):
        await world.create.execute(a_task())
    taker.credits = 5
    assert world.dispatcher.claim([a_task()]).takers == {}
    world.batches.asked.clear()
    world.dispatcher.more(ANY)
    await asyncio.wait_for(world.batches.asked.wait(), 5)
    await asyncio.sleep(0)
    assert world.dispatcher.claim([a_task()]).takers == {0: taker}


async def test_a_claim_that_was_not_needed_is_given_back(world: World) -> None:
    taker = Taker("w", 2)
    await world.join(taker)
    world.batches.problem = Unavailable("away")
    with pytest.raises(Unavailable):
        await world.create.execute(a_task())
    assert taker.credits == 2
    world.batches.problem = None
    world.batches.answer = RequestIdReused("r")
    with pytest.raises(RequestIdReused):
        await world.create.execute(a_task())
    # The answer to a repeat is the task that the first call made.
    world.batches.answer = Task(new_id(), "acme", b"", NOW)
    await world.create.execute(a_task())
    assert (taker.credits, taker.leases) == (2, [])


async def test_a_lease_spends_what_it_claimed_and_gives_the_rest_back(world: World) -> None:
    waiting = Lease(run_of(a_task()), b"", None, NOW, timedelta(seconds=1))
    world.batches.waiting = [waiting]
    taker = Taker("w", 3)
    await world.join(taker)
    assert (taker.leases, taker.credits) == ([waiting], 2)


class Link:
    """Keeps what is told to the replica that decides."""

    def __init__(self, world: World) -> None:
        self.told: list[Message] = []
        self.told_of = asyncio.Event()
        world.offers.connected(self)

    def tell(self, message: Message) -> None:
        self.told.append(message)
        self.told_of.set()

    def close(self) -> None:
        """Nothing to end."""

    async def next(self) -> Message:
        while not self.told:
            self.told_of.clear()
            await self.told_of.wait()
        return self.told.pop(0)


async def test_slots_are_offered_as_far_as_they_are_wanted_and_come_back(world: World) -> None:
    taker = Taker("w", 3)
    link = Link(world)
    await world.join(taker)
    ((number, demand),) = (await link.next()).opened
    assert demand == ANY
    world.offers.received(link, Answer(wanted=[(number, 2, 5)]))
    assert (await link.next()).offers == [(number, "w", 2)]
    assert taker.credits == 1
    lease = Lease(a_run(task_id=(task_id := new_id())), b"", None, NOW, timedelta(seconds=1))
    world.offers.received(link, Answer(starts=[Start(number, "w", task_id, 1, lease)]))
    assert taker.leases == [lease]
    # One more is wanted, since one of two was used.
    world.offers.received(link, Answer(wanted=[(number, 2, 5)]))
    assert (await link.next()).offers == [(number, "w", 1)]
    world.offers.received(link, Answer(wanted=[(number, 0, 0)], returned=[(number, "w", 1)]))
    assert taker.credits == 1
    world.offers.lost(link)
    assert taker.credits == 2


async def test_a_task_that_another_replica_decides_on_is_nobodys_at_its_creation(world: World) -> None:
    taker = Taker("w", 1)
    await world.join(taker)
    world.decided.queues.add("code")
    await world.create.execute(task := a_task())
    assert (task.worker_id, taker.credits, world.batches.fences) == (None, 1, [None])


async def deciding(world: World, credits: int, *, room: int, wait: int = 0) -> Taker:
    """A worker, and this replica decides for the queue research."""
    taker = Taker("w", credits)
    await world.join(taker)
    world.decided.queues.add("research")
    world.decide.fence, world.decide.room, world.decide.wait = Fence(7, 1), room, wait
    return taker


async def test_who_decides_starts_tasks_in_the_moment_they_are_created_as_far_as_limits_allow(world: World) -> None:
    taker = await deciding(world, 5, room=2)
    tasks = [a_task(queue="research") for _ in range(3)]
    await world.create.execute_all([*tasks, plain := a_task()])
    assert [task.worker_id for task in (*tasks, plain)] == ["w", "w", None, "w"]
    assert (len(taker.leases), taker.credits, world.batches.fences) == (3, 2, [Fence(7, 1)])
    # The third waits, and whoever decides has it from here.
    assert world.decide.waiting == [tasks[2].task_id]
    # A batch of which nothing is decided on is not fenced.
    await world.create.execute(a_task())
    assert world.batches.fences[1:] == [None]


async def test_slots_that_waiting_tasks_can_use_are_theirs(world: World) -> None:
    taker = await deciding(world, 2, room=9, wait=2)
    await world.create.execute(task := a_task(queue="research"))
    assert (task.worker_id, taker.credits, world.decide.running) == (None, 2, [])
    world.decide.wait = 1
    await world.create.execute(second := a_task(queue="research"))
    assert (second.worker_id, taker.credits) == ("w", 1)


@pytest.mark.parametrize("over", [EpochOver(), LimitsChanged()])
async def test_when_what_was_decided_by_is_over_the_tasks_are_created_and_wait(world: World, over: Exception) -> None:
    taker = await deciding(world, 3, room=9)
    world.batches.over = over
    await world.create.execute_all([decided := a_task(queue="research"), plain := a_task()])
    assert (decided.worker_id, plain.worker_id, taker.credits) == (None, "w", 2)
    assert world.batches.fences == [Fence(7, 1), None]
    # Nobody is told here: the database tells of the one that waits.
    assert (world.decide.running, world.decide.waiting, world.decide.told) == ([], [], ["look again"])


@pytest.mark.parametrize(("problem", "told"), [(Unavailable("away"), ["doubt"]), (ValueError("a bad item"), [])])
async def test_after_a_failure_it_is_doubted_what_runs_unless_it_is_certain(
    world: World, problem: Exception, told: list[str]
) -> None:
    taker = await deciding(world, 3, room=9)
    world.batches.problem = problem
    with pytest.raises(type(problem)):
        await world.create.execute(a_task(queue="research"))
    assert (taker.credits, world.decide.told) == (3, told)
    if not told:
        assert world.decide.running == []


async def test_a_repeat_of_a_task_that_is_there_gives_its_start_back(world: World) -> None:
    taker = await deciding(world, 3, room=9)
    world.batches.answer = Task(new_id(), "acme", b"", NOW)
    await world.create.execute(a_task(queue="research"))
    assert (taker.credits, world.decide.running, world.decide.waiting) == (3, [], [])


async def test_a_batch_that_may_take_long_holds_no_fence(world: World) -> None:
    taker = await deciding(world, 3, room=9)
    await world.create.execute(a_task(queue="research", context=b"x" * (5 << 20)))
    assert (taker.credits, world.batches.fences, world.decide.running) == (3, [None], [])


async def test_a_lane_that_is_woken_for_tasks_that_are_decided_on_asks_the_database_for_no_others(world: World) -> None:
    taker = Taker("w", 3)
    link = Link(world)
    await world.join(taker)
    ((number, _),) = (await link.next()).opened
    world.batches.asked.clear()
    world.offers.received(link, Answer(wanted=[(number, 1, 5)]))
    assert (await link.next()).offers == [(number, "w", 1)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert (world.batches.asked.is_set(), taker.credits) == (False, 2)


async def test_while_others_wait_half_of_the_slots_are_offered(world: World) -> None:
    link = Link(world)
    taker = Taker("w", 0)
    world.dispatcher.join(ANY, taker)
    ((number, _),) = (await link.next()).opened
    world.hub.wake(Wake(kinds={"k"}, origin="other"))
    await asyncio.sleep(0)
    world.offers.received(link, Answer(wanted=[(number, 100, 5)]))
    world.batches.waiting = [Lease(a_run(task_id=new_id()), b"", None, NOW, timedelta(seconds=1)) for _ in range(20)]
    taker.credits = 10
    world.dispatcher.more(ANY)
    assert (await link.next()).offers == [(number, "w", 5)]
    while len(taker.leases) < 5:  # noqa: ASYNC110 - the lane is on its way
        await asyncio.sleep(0)
    assert len(taker.leases) == 5


async def test_two_tenants_whose_tasks_wait_in_a_queue_are_told_of(world: World) -> None:
    link = Link(world)
    await world.create.execute_all([a_task(tenant_id=tenant) for tenant in ("acme", "acme", "globex", "third")])
    told = [waiting for message in link.told for waiting in message.waiting]
    assert len(told) == 2
    assert {(queue, kind) for _, queue, kind in told} == {("code", "k")}


async def test_a_task_that_depends_on_others_is_claimed_by_nobody(world: World) -> None:
    taker = Taker("w", 2)
    await world.join(taker)
    await world.create.execute(blocked := a_task(dependencies=(Dependency(new_id(), "first"),)))
    await world.create.execute(free := a_task())
    assert (blocked.worker_id, free.worker_id, taker.credits) == (None, "w", 1)
