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
from google.protobuf.struct_pb2 import Value
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
from services.scheduler.domain.dependency import FailurePolicy
from services.scheduler.domain.errors import (
    ParentTaskEnded,
    RequestIdReused,
    SignalAlreadySent,
    StaleAttempt,
    TaskEnded,
    TaskNotCancellable,
)
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import NewTask, State
from services.scheduler.domain.worker import CompletionReport, FailureReport, Heartbeat, Report, StepReport, WaitReport
from services.scheduler.server.convert import new_task
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.cancel import Cancellations
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.signals import Signals
from services.scheduler.storage.tasks import Tasks
from services.scheduler.usecases.hub import Hub
from tests.integration.scheduler.conftest import MakeSettings
from tests.integration.scheduler.task_model import Model

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
        self.batches = Batches(engine, hub, timedelta(minutes=5), DecidedQueues(engine))
        # A lease that has ended when it begins: what a worker has that died at once.
        self.dying = Batches(engine, hub, timedelta(), DecidedQueues(engine))
        self.cancellations = Cancellations(self.database, hub)
        self.tasks = Tasks(self.database)
        self.signals = Signals(self.database, hub)

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


REPORTS = ("complete", "step one", "step two", "fail", "fail now", "fail badly", "fail for good", "wait red", "wait blue")
SIGNALS = ("signal red", "signal blue", "signal the awaited", "signal the awaited")
TIMES = ("late", "overdue", "slow", "quiet", "due", "come", "come", "tick")
# What moves a task on comes more often.
MOVES = (
    *(
        "lease",
        "lease",
        "lease",
        "lease",
        *REPORTS,
        "die",
        "die and sweep",
        "child",
        "after",
        "after",
        "beat",
        "beat and tell",
        "sweep",
    ),
    *(*TIMES, *SIGNALS, "cancel", "look"),
)
HOUR = timedelta(hours=1)
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
            self.values: dict[tuple[str, str], int] = {}
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
                    st.sampled_from(["", "", "timed", "later"]),
                ),
                min_size=1,
                max_size=3,
            ),
            dying=st.booleans(),
        )
        def create(self, wanted: list[tuple[bool, str, int, int, str, str]], dying: bool) -> None:
            """Several in one transaction; a request id may be in it twice, with the same payload or another.

            Some are a waiting worker's from the first moment on, which may die at once.
            """
            tasks = [self.asked(*item[:-1], times=item[-1]) for _, *item in wanted]
            for task, (taken, *_, times) in zip(tasks, wanted, strict=True):
                # Nobody claims what may have to wait.
                task.worker_id = WORKER if taken and times != "later" else None
            answers = world.do((world.dying if dying else world.batches).create(tasks))
            for (taken, request, *payload), answer in zip(wanted, answers, strict=True):
                before = self.requests.get(request)
                if before is None:
                    assert answer.task_id not in self.models
                    self.keep(answer.task_id, payload[0], payload[1], times=payload[3])
                    assert answer.state is (State.SCHEDULED if payload[3] == "later" else State.PENDING)
                    if taken and payload[3] != "later":
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
                case "after":
                    self.create_after([self.at(place), self.at(place + number)], FailurePolicy(1 + (place + back) % 3))
                case "beat" | "beat and tell":
                    progress = 0.5 if what == "beat and tell" else None
                    self.heartbeat([(self.at(place + more), back) for more in range(number)], progress)
                case "sweep":
                    self.sweep()
                case "late" | "overdue" | "slow" | "quiet" | "due":
                    self.pass_time(self.at(place), what)
                case "come":
                    # Those that wait for a moment are few.
                    resting = [model for model in self.models.values() if model.state in (State.SCHEDULED, State.WAITING)]
                    if resting:
                        self.pass_time(resting[place % len(resting)], "due")
                    self.tick()
                case "tick":
                    self.tick()
                case "signal the awaited":
                    waiting = [model for model in self.models.values() if model.state is State.WAITING]
                    if waiting:
                        model = waiting[place % len(waiting)]
                        self.signal(model, model.signal, back)
                case "signal red" | "signal blue":
                    self.signal(self.at(place), what.removeprefix("signal "), back)
                case "cancel":
                    self.cancel(self.at(place))
                case "look":
                    self.compare(self.at(place))

        def asked(
            self, request: str, priority: int, most: int, text: str, parent: str = "", attempt: int = 0, times: str = ""
        ) -> NewTask:
            task = task_pb2.Task(description=text, kind=self.kind, priority=priority, max_attempts=most, parent_task_id=parent)
            if times:
                for duration in (task.attempt_timeout, task.heartbeat_timeout, task.start_timeout, task.total_timeout):
                    duration.FromTimedelta(HOUR)
                # The default's wait would be over by itself, sooner or later.
                task.retry_policy.initial_backoff.FromTimedelta(HOUR)
                task.retry_policy.non_retryable_reasons.append("BAD")
            if times == "later":
                task.delay.FromTimedelta(HOUR / 2)
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

        def create_after(self, upstreams: list[Model], policy: FailurePolicy) -> None:
            """A task that waits for others, which may have ended."""
            needs = {model.task_id: model for model in upstreams}
            task = task_pb2.Task(description="after", kind=self.kind, priority=2, max_attempts=2)
            for task_id in needs:
                task.dependencies.add(task_id=task_id, failure_policy=task_pb2.DependencyFailurePolicy.ValueType(policy))
            new = new_task(pb.CreateTaskRequest(task=task), TENANT, "ada", "")
            [answer] = world.do(world.batches.create([new]))
            assert not isinstance(answer, Exception), answer
            assert (answer.state, answer.blocked_by) == (State.BLOCKED, len(needs))
            self.keep(answer.task_id, 2, 2)
            model = self.models[answer.task_id]
            model.state, model.policy, model.needs = State.BLOCKED, policy, dict.fromkeys(needs)
            world.seen["blocked"] += 1
            for upstream in needs.values():
                if upstream.state.ended:
                    model.told(upstream.task_id, upstream.state)

        def keep(self, task_id: str, priority: int, most: int, parent: str = "", times: str = "") -> None:
            self.order += 1
            model = self.models[task_id] = Model(task_id, self.order, priority, most, parent, timed=times != "")
            if times == "later":
                model.state = State.SCHEDULED

        def start(self, number: int, *, dying: bool) -> None:
            """The waiting tasks of the highest priority, the oldest first."""
            batches = world.dying if dying else world.batches
            leases = world.do(batches.lease(Demand(TENANT, frozenset({self.kind}), frozenset()), [WORKER] * number))
            given = [lease.run.task_id for lease in leases]
            waiting = [model for model in self.models.values() if model.state is State.PENDING and not model.late]
            waiting.sort(key=lambda model: (-model.priority, model.order))
            assert given == [model.task_id for model in waiting][:number], "not the first in line, or somebody was left waiting"
            for lease in leases:
                model = self.models[lease.run.task_id]
                world.seen["leased again"] += model.attempt > 0
                model.start(lost=dying)
                assert lease.run.attempt == model.attempt
                assert {step.step_id: step.attempt for step in lease.steps} == model.steps
                assert {each.task_id: each.state for each in lease.dependencies} == model.needs
                world.seen["unblocked"] += bool(model.needs)

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
            if what.startswith("wait "):
                return WaitReport(*head, what.removeprefix("wait "), "please", HOUR)
            reason = "BAD" if what == "fail badly" else "BROKEN"
            delay = HOUR if what == "fail" and not model.timed else None
            waits = what in ("fail", "fail badly") and (model.timed or delay is not None)
            return FailureReport(*head, reason, "it broke", what != "fail for good", delay, back_off=waits)

        def judge(self, item: Report, ended: list[Model]) -> str:
            """What the answer should be; changes the model."""
            model = self.models[item.task_id]
            if model.attempt == item.attempt:
                if isinstance(item, CompletionReport) and model.state is State.COMPLETED:
                    return ""
                between = model.state in (State.PENDING, State.SCHEDULED, State.WAITING)
                if isinstance(item, FailureReport | WaitReport) and between:
                    return ""
                if isinstance(item, FailureReport) and model.state is State.FAILED and model.reason == item.reason:
                    return ""
            if model.stop_reason(item.attempt):
                return "STALE_ATTEMPT"
            if isinstance(item, StepReport):
                # Also one that is told again is a sign of life.
                model.quiet = False
                if item.step_id not in model.steps:
                    model.steps[item.step_id] = item.attempt
                    model.says("step_completed")
            elif isinstance(item, WaitReport):
                model.wait(item.signal)
            elif isinstance(item, CompletionReport):
                model.result = item.result[2:].decode()
                model.end(State.COMPLETED, "completed")
            else:
                retryable = item.retryable and not (model.timed and item.reason == "BAD")
                model.fail_attempt(item.reason, retryable=retryable, waits=item.back_off)
            if model.state.ended:
                ended.append(model)
            return ""

        def cascade(self, ended: list[Model]) -> None:
            """Cancels whatever is left below, and tells those that depend on what has ended."""
            for ender in ended:
                for model in self.models.values():
                    if model.state.ended:
                        continue
                    if model.parent == ender.task_id:
                        model.end(State.CANCELLED, "cancelled")
                    elif ender.task_id in model.needs:
                        model.told(ender.task_id, ender.state)
                        world.seen["ended by a dependency"] += model.state.ended
                    if model.state.ended:
                        self.cascade([model])

        def heartbeat(self, beats: list[tuple[Model, int]], progress: float | None) -> None:
            sent = [(model.task_id, max(model.attempt - back, 1)) for model, back in beats]
            told = [Heartbeat(None, task_id, attempt, progress) for task_id, attempt in sent]
            answers = world.do(world.batches.heartbeat(told))
            for (task_id, attempt), answer in zip(sent, answers, strict=True):
                assert answer == self.models[task_id].stop_reason(attempt)
                if not answer:
                    self.models[task_id].lost = False
                    if progress is not None:
                        self.models[task_id].quiet = False

        def sweep(self) -> None:
            """Ends what timed out, gives back what lost its worker."""
            while world.do(world.batches.sweep()):
                pass
            ended = []
            for model in self.models.values():
                if model.late:
                    model.fail_attempt("", retryable=True, waits=False)
                elif model.slow or model.quiet:
                    reason = "ATTEMPT_TIMEOUT" if model.slow else "HEARTBEAT_TIMEOUT"
                    model.fail_attempt(reason, retryable=True, waits=True)
                elif model.lost:
                    model.fail_attempt("WORKER_LOST", retryable=True, waits=False)
                else:
                    continue
                ended += [model] if model.state.ended else []
            self.cascade(ended)

        def pass_time(self, model: Model, what: str) -> None:
            """Time passes for one task: a moment of it is in the past."""
            if model.state.ended:
                return
            column = _COLUMNS.get(what, "")
            match what:
                case "late":
                    column = "deadline" if model.attempt else "start_by"
                    model.late = model.late or ("TIMEOUT" if model.attempt else "START_TIMEOUT")
                case "overdue":
                    # The end is a part of the moment that is looked at.
                    limit = "deadline" if model.attempt else "start_by"
                    column = f"{limit} = clock_timestamp() - interval '1 second', end_by"
                    model.late = "DEADLINE_EXCEEDED"
                case "slow" | "quiet":
                    if model.state is not State.RUNNING or not model.timed:
                        return
                    model.slow, model.quiet = model.slow or what == "slow", model.quiet or what == "quiet"
                case "due":
                    if model.state not in (State.SCHEDULED, State.WAITING):
                        return
                    model.due = True
            world.do(_pass(world.engine, model.task_id, column))

        def tick(self) -> None:
            """Those whose moment has come wait for a worker."""
            due = [model for model in self.models.values() if model.due and not model.state.ended]
            while world.do(world.batches.make_ready()) == timedelta():
                pass
            for model in due:
                if model.state is State.WAITING:
                    model.signalled(model.signal)
                else:
                    model.ready()

        def signal(self, model: Model, signal: str, back: int) -> None:
            """A value for a name, which is the first, the same again, or another."""
            value = Value(number_value=back).SerializeToString(deterministic=True)
            signalling = world.signals.signal(TENANT, model.task_id, signal, value, "ada")
            if model.state.ended:
                with pytest.raises(TaskEnded):
                    world.do(signalling)
            elif signal not in model.steps:
                world.do(signalling)
                model.signalled(signal)
                self.values[model.task_id, signal] = back
            elif self.values.get((model.task_id, signal)) == back:
                world.do(signalling)
            else:
                with pytest.raises(SignalAlreadySent):
                    world.do(signalling)

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
            assert found == (model.state, model.attempt, len(model.events), model.reason), model
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


_COLUMNS = {"slow": "attempt_ends", "quiet": "quiet_ends", "due": "available_at"}


async def _pass(engine: EngineDriver, task_id: str, column: str) -> None:
    async with engine.transaction() as connection:
        await connection.execute(
            f"UPDATE tasks SET {column} = clock_timestamp() - interval '1 second', check_at = clock_timestamp()"
            " WHERE task_id = $1",
            task_id,
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
    "ready",
    "waiting",
    "signalled",
    "blocked",
    "unblocked",
    "ended by a dependency",
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
