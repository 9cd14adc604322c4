"""The life of tasks against a model: whatever is done in whatever order, the tables say what a dict says."""

from __future__ import annotations

import asyncio
import itertools
import os
import uuid
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pydantic import SecretStr

from services.common.db.driver import Driver, open_driver
from services.common.db.engine_role import EngineDriver
from services.common.db.migrations import migrate
from services.scheduler.domain.errors import (
    ParentTaskEnded,
    RequestIdReused,
    StaleAttempt,
    TaskNotCancellable,
)
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import NewTask, State
from services.scheduler.domain.worker import CompletionReport, FailureReport, Heartbeat, Report, StepReport
from services.scheduler.server.convert import new_task
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.cancel import Cancellations
from services.scheduler.storage.tasks import Tasks
from services.scheduler.usecases.hub import Hub
from tests.integration.scheduler.conftest import MakeSettings

T = TypeVar("T")
TENANT = "acme"
WORKER = "worker-1"
EXAMPLES = int(os.environ.get("GUILDMESH_LIFE_EXAMPLES", "30"))
STEPS = 8


@dataclass
class World:
    """The storage under test, and the loop it lives on."""

    runner: asyncio.Runner
    database: Driver

    seen: Counter[str] = field(default_factory=Counter)
    """how often what happened, so that a test in which nothing did cannot pass."""

    def __post_init__(self) -> None:
        hub, engine = Hub("test"), EngineDriver(self.database)
        self.engine = engine
        self.batches = Batches(engine, hub, timedelta(minutes=5))
        # A lease that has ended when it begins: what a worker has that died at once.
        self.dying = Batches(engine, hub, timedelta())
        self.cancellations = Cancellations(self.database, hub)
        self.tasks = Tasks(self.database)

    def do(self, work: Awaitable[T]) -> T:
        """Waits for something."""

        async def wait() -> T:
            return await work

        return self.runner.run(wait())


@pytest.fixture
def world(scheduler_settings: MakeSettings, empty_database_url: str) -> Iterator[World]:
    own = scheduler_settings(database_url=SecretStr(empty_database_url), db_pool_size=2)
    migrate(own, package="services.scheduler.storage.migrations", schema="scheduler")
    with asyncio.Runner() as runner:
        opened = open_driver(own, "scheduler")
        database = runner.run(opened.__aenter__())
        try:
            yield World(runner, database)
        finally:
            runner.run(opened.__aexit__(None, None, None))


@dataclass
class Model:
    """A task, as it should be."""

    task_id: str
    order: int
    priority: int
    max_attempts: int
    parent: str = ""
    state: State = State.PENDING
    attempt: int = 0
    events: list[tuple[str, int]] = field(default_factory=lambda: [("created", 0)])
    steps: dict[str, int] = field(default_factory=dict)
    """attempt by step."""
    result: str = ""
    reason: str = ""
    lost: bool = False
    """its lease has ended, and nobody has noticed."""
    late: bool = False
    """its timeout has passed, and nobody has noticed."""
    resting: bool = False
    """it may or may not have waited out its back-off."""

    def says(self, kind: str) -> None:
        self.events.append((kind, self.attempt))

    def start(self, *, lost: bool) -> None:
        self.state, self.attempt, self.lost, self.resting = State.RUNNING, self.attempt + 1, lost, False
        self.says("started")

    def end(self, state: State, kind: str) -> None:
        self.state = state
        self.lost = self.late = False
        self.says(kind)

    def stop_reason(self, attempt: int) -> str:
        if self.state is State.RUNNING and self.attempt == attempt:
            return ""
        if self.state is State.CANCELLED and self.attempt == attempt:
            return "CANCELLED"
        if self.state is State.FAILED and self.attempt == attempt and self.reason == "TIMEOUT":
            return "TIMEOUT"
        return "STALE_ATTEMPT"

    def fail_attempt(self, reason: str, *, retryable: bool, resting: bool) -> None:
        if self.late:
            self.reason = "TIMEOUT"
            self.end(State.FAILED, "failed")
        elif not retryable or self.attempt >= self.max_attempts:
            self.reason = reason
            self.end(State.FAILED, "failed")
        else:
            self.state, self.lost, self.resting = State.PENDING, False, resting
            self.says("retried")


REPORTS = ("complete", "step one", "step two", "fail", "fail now", "fail for good")
# What moves a task on comes more often.
MOVES = ("lease", "lease", "lease", *REPORTS, "die", "die and sweep", "child", "beat", "sweep", "late", "cancel", "look")
Move = tuple[str, int, int, int]
moves_of = st.lists(
    st.tuples(st.sampled_from(MOVES), st.integers(0, 9), st.integers(1, 4), st.sampled_from([0, 0, 0, 1])),
    min_size=6,
    max_size=16,
)


def machine_over(world: World) -> type[RuleBasedStateMachine]:
    """The machine, bound to a database."""

    class TaskLife(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.kind = f"life-{uuid.uuid4().hex[:12]}"
            self.models: dict[str, Model] = {}
            self.requests: dict[str, tuple[str, list[Any]]] = {}
            self.order = 0

        def at(self, place: int) -> Model:
            """A task by its place in a line in which the running ones stand first, since most happens to them."""
            line = sorted(self.models.values(), key=lambda model: (model.state is not State.RUNNING, model.state, model.order))
            return line[place % len(line)]

        @rule(
            wanted=st.lists(
                st.tuples(
                    st.booleans(),
                    st.sampled_from(["", "", "r1", "r2"]),
                    st.integers(1, 2),
                    st.sampled_from([1, 3, 5]),
                    st.sampled_from("ab"),
                ),
                min_size=1,
                max_size=3,
            ),
            dying=st.booleans(),
        )
        def create(self, wanted: list[tuple[bool, str, int, int, str]], dying: bool) -> None:
            """Several in one transaction; a request id may be in it twice, with the same payload or another.

            Some are a waiting worker's from the first moment on, which may die at once.
            """
            tasks = [self.asked(*item) for _, *item in wanted]
            for task, (taken, *_) in zip(tasks, wanted, strict=True):
                task.worker_id = WORKER if taken else None
            answers = world.do((world.dying if dying else world.batches).create(tasks))
            for (taken, request, *payload), answer in zip(wanted, answers, strict=True):
                before = self.requests.get(request)
                if before is None:
                    assert answer.task_id not in self.models
                    self.keep(answer.task_id, payload[0], payload[1])
                    if taken:
                        self.models[answer.task_id].start(lost=dying)
                        world.seen["started at once"] += 1
                    if request:
                        self.requests[request] = (answer.task_id, payload)
                elif before[1] == payload:
                    assert answer.task_id == before[0]
                else:
                    assert isinstance(answer, RequestIdReused)

        @rule(moves=moves_of)
        def act(self, moves: list[Move]) -> None:
            """Many moves, one after another; reports that stand together are told in one transaction.

            One rule with many moves, since a machine that draws one rule at a time keeps far from the rare states.
            """
            for reporting, group in itertools.groupby(moves, key=lambda move: move[0] in REPORTS):
                if reporting:
                    self.report([self.reported(self.at(place), what, back) for what, place, _, back in group])
                    continue
                for what, place, number, back in group:
                    self.move(what, place, number, back)

        def move(self, what: str, place: int, number: int, back: int) -> None:
            match what:
                case "lease":
                    self.start(number, dying=False)
                case "die" | "die and sweep":
                    self.start(number, dying=True)
                    if what == "die and sweep":
                        self.sweep()
                        self.start(number, dying=False)
                case "child":
                    self.create_child(self.at(place), back, by_worker=number > 1)
                case "beat":
                    self.heartbeat([(self.at(place + more), back) for more in range(number)])
                case "sweep":
                    self.sweep()
                case "late":
                    self.time_out(self.at(place))
                case "cancel":
                    self.cancel(self.at(place))
                case "look":
                    self.compare(self.at(place))

        def asked(self, request: str, priority: int, most: int, text: str, parent: str = "", attempt: int = 0) -> NewTask:
            task = task_pb2.Task(description=text, kind=self.kind, priority=priority, max_attempts=most, parent_task_id=parent)
            request_id = f"{self.kind}-{request}" if request else ""
            return new_task(pb.CreateTaskRequest(task=task, request_id=request_id, parent_attempt=attempt), TENANT, "ada", "")

        @initialize(number=st.integers(3, 6), most=st.sampled_from([2, 3, 5]))
        def begin(self, number: int, most: int) -> None:
            """Some tasks that run already: a machine that has to find its way to them spends its steps on that."""
            answers = world.do(world.batches.create([self.asked("", 1, most, "begin") for _ in range(number)]))
            for answer in answers:
                assert not isinstance(answer, Exception), answer
                self.keep(answer.task_id, 1, most)
            self.start(number - 1, dying=False)

        def create_child(self, model: Model, back: int, *, by_worker: bool) -> None:
            attempt = max(model.attempt - back, 1) if by_worker else 0
            task = self.asked("", 2, 2, "child", model.task_id, attempt)
            [answer] = world.do(world.batches.create([task]))
            if attempt and (model.state is not State.RUNNING or model.attempt != attempt):
                assert isinstance(answer, StaleAttempt | ParentTaskEnded), answer
            elif model.state.ended:
                assert isinstance(answer, ParentTaskEnded), answer
            else:
                assert not isinstance(answer, Exception), answer
                self.keep(answer.task_id, 2, 2, model.task_id)

        def keep(self, task_id: str, priority: int, most: int, parent: str = "") -> None:
            self.order += 1
            self.models[task_id] = Model(task_id, self.order, priority, most, parent)

        def start(self, number: int, *, dying: bool) -> None:
            """The waiting tasks of the highest priority, the oldest first; one that rests may be among them or not."""
            batches = world.dying if dying else world.batches
            leases = world.do(batches.lease(Demand(TENANT, frozenset({self.kind}), frozenset()), [WORKER] * number))
            given = [lease.run.task_id for lease in leases]
            waiting = [model for model in self.models.values() if model.state is State.PENDING and not model.late]
            waiting.sort(key=lambda model: (-model.priority, model.order))
            certain = [model.task_id for model in waiting if not model.resting]
            sure = [task_id for task_id in given if not self.models[task_id].resting]
            assert sure == certain[: len(sure)], "not the first in line"
            assert len(given) == number or len(sure) == len(certain), "somebody was left waiting"
            assert given == [model.task_id for model in waiting if model.task_id in given], "not in their order"
            for lease in leases:
                model = self.models[lease.run.task_id]
                world.seen["leased again"] += model.attempt > 0
                model.start(lost=dying)
                assert lease.run.attempt == model.attempt
                assert {step.step_id: step.attempt for step in lease.steps} == model.steps

        def report(self, reports: list[Report]) -> None:
            """Several in one transaction, of any attempts, also twice the same."""
            answers = world.do(world.batches.report(reports))
            ended: list[Model] = []
            for item, answer in zip(reports, answers, strict=True):
                wanted = self.judge(item, ended)
                assert (answer.reason if answer else "") == wanted, (item, answer)
                world.seen["refused" if wanted else "accepted"] += 1
            self.cascade(ended)

        def reported(self, model: Model, what: str, back: int) -> Report:
            attempt = max(model.attempt - back, 1)
            head = (None, WORKER, model.task_id, attempt)
            if what == "complete":
                return CompletionReport(*head, b"\x1a\x02" + f"{attempt:02d}".encode())
            if what.startswith("step "):
                return StepReport(*head, what.removeprefix("step "), b"\x20\x01")
            return FailureReport(*head, "BROKEN", "it broke", retryable=what != "fail for good", back_off=what == "fail")

        def judge(self, item: Report, ended: list[Model]) -> str:
            """What the answer should be; changes the model."""
            model = self.models[item.task_id]
            if model.attempt == item.attempt:
                if isinstance(item, CompletionReport) and model.state is State.COMPLETED:
                    return ""
                if isinstance(item, FailureReport) and (
                    model.state is State.PENDING or (model.state is State.FAILED and model.reason == item.reason)
                ):
                    return ""
            if model.stop_reason(item.attempt):
                return "STALE_ATTEMPT"
            if isinstance(item, StepReport):
                if item.step_id not in model.steps:
                    model.steps[item.step_id] = item.attempt
                    model.says("step_completed")
            elif isinstance(item, CompletionReport):
                model.result = item.result[2:].decode()
                model.end(State.COMPLETED, "completed")
            else:
                model.fail_attempt(item.reason, retryable=item.retryable, resting=item.back_off)
            if model.state.ended:
                ended.append(model)
            return ""

        def cascade(self, ended: list[Model]) -> None:
            """Cancels whatever is left below."""
            for parent in ended:
                for model in self.models.values():
                    if model.parent == parent.task_id and not model.state.ended:
                        model.end(State.CANCELLED, "cancelled")
                        self.cascade([model])

        def heartbeat(self, beats: list[tuple[Model, int]]) -> None:
            sent = [(model.task_id, max(model.attempt - back, 1)) for model, back in beats]
            answers = world.do(world.batches.heartbeat([Heartbeat(None, task_id, attempt) for task_id, attempt in sent]))
            for (task_id, attempt), answer in zip(sent, answers, strict=True):
                assert answer == self.models[task_id].stop_reason(attempt)
                if not answer:
                    self.models[task_id].lost = False

        def sweep(self) -> None:
            """Ends what timed out, gives back what lost its worker."""
            while world.do(world.batches.sweep()):
                pass
            ended = []
            for model in self.models.values():
                if model.late or model.lost:
                    model.fail_attempt("WORKER_LOST", retryable=True, resting=False)
                    ended += [model] if model.state.ended else []
            self.cascade(ended)

        def time_out(self, model: Model) -> None:
            """Time passes for one task: its timeout is over."""
            if model.attempt and not model.state.ended:
                world.do(_expire(world.engine, model.task_id))
                model.late = True

        def cancel(self, model: Model) -> None:
            cancelling = world.cancellations.cancel(TENANT, model.task_id, "enough", "ada")
            if model.state.ended:
                with pytest.raises(TaskNotCancellable):
                    world.do(cancelling)
                return
            assert world.do(cancelling).state is State.CANCELLED
            model.end(State.CANCELLED, "cancelled")
            self.cascade([model])

        def compare(self, model: Model) -> None:
            task = world.do(world.tasks.get(TENANT, model.task_id))
            assert task is not None
            found = (task.state, task.attempt, task.last_event_number, task.error_reason or "")
            assert found == (model.state, model.attempt, len(model.events), model.reason)
            assert (task.result or b"")[2:].decode() == model.result
            state, newest, stored = world.do(world.tasks.events(TENANT, model.task_id, 0, 200))
            assert (state, newest) == (model.state, len(model.events))
            assert [event.number for event in stored] == list(range(1, newest + 1))
            events = [TaskEvent.FromString(event.value) for event in stored]
            assert [(event.WhichOneof("change"), event.attempt) for event in events] == model.events

        def teardown(self) -> None:
            for model in self.models.values():
                self.compare(model)
                world.seen.update(kind for kind, _ in model.events)

    return TaskLife


async def _expire(engine: EngineDriver, task_id: str) -> None:
    async with engine.transaction() as connection:
        await connection.execute(
            "UPDATE tasks SET deadline = clock_timestamp() - interval '1 second' WHERE task_id = $1", task_id
        )


# Each of these must come about so often, or the run has shown too little.
_WANTED = (
    "accepted",
    "refused",
    "created",
    "started",
    "leased again",
    "step_completed",
    "retried",
    "completed",
    "failed",
    "cancelled",
)
_OFTEN = 5


def test_the_life_of_tasks_follows_the_model(world: World) -> None:
    missing: list[str] = []
    # Chance may have kept something rare away, so there is more of it until everything was seen.
    for _ in range(4):
        run_state_machine_as_test(
            machine_over(world),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                print_blob=True,
                # Making a failure smaller would take minutes; set a larger limit of time and add Phase.shrink to do it.
                phases=(Phase.explicit, Phase.reuse, Phase.generate),
                suppress_health_check=list(HealthCheck),
            ),
        )
        missing = [kind for kind in _WANTED if world.seen[kind] < _OFTEN]
        if not missing:
            break
    assert missing == []
