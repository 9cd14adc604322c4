"""Moves of tasks: created, leased, reported, swept, signalled, cancelled, and time that passes for them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest
from google.protobuf.struct_pb2 import Value
from guildmesh.scheduler.v1 import task_pb2

from services.common.db.engine_role import EngineDriver
from services.common.ids import new_id
from services.scheduler.domain.dependency import FailurePolicy
from services.scheduler.domain.errors import (
    ParentTaskEnded,
    RequestIdReused,
    SignalAlreadySent,
    StaleAttempt,
    TaskEnded,
    TaskNotCancellable,
)
from services.scheduler.domain.events import ToolCalled, ToolReturned
from services.scheduler.domain.payload import is_payload, named_payload
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import Lease, State
from services.scheduler.domain.told import Told
from services.scheduler.domain.worker import (
    CompletionReport,
    FailureReport,
    Heartbeat,
    OutputReport,
    ProgressReport,
    Refusal,
    Report,
    StepReport,
    WaitReport,
)
from tests.integration.scheduler.task_life.life import HOUR, WORKER, Life
from tests.integration.scheduler.task_life.model import TENANT, Model

Wanted = tuple[bool, str, int, int, str, str, str, int]
"""whether a worker takes it at once, request id, priority, attempts, description, times, concurrency key and queue."""
_COLUMNS = {"slow": "attempt_ends", "quiet": "quiet_ends", "due": "available_at", "lost": "lease_expires"}


class TaskMoves(Life):
    """What is done to tasks."""

    @property
    def demand(self) -> Demand:
        """Of a worker of all of them."""
        alone = all(model.tenant == TENANT for model in self.models.values())
        return Demand(TENANT if alone else None, frozenset({self.kind}), frozenset())

    def create(self, wanted: Sequence[Wanted], *, dying: bool) -> None:
        """Several in one transaction; a request id may be in it twice, with the same payload or another.

        Some are a waiting worker's from the first moment on, which may die at once.
        """
        tasks = [
            self.asked(self.message(priority, most, text, times=times, key=key, queue=self.queues[queue]), request)
            for _, request, priority, most, text, times, key, queue in wanted
        ]
        # Nobody claims what may have to wait.
        taken = [taken and times != "later" for taken, *_, times, _, _ in wanted]
        batches = self.world.dying if dying else self.world.batches
        decided = [self.queues[item[-1]].decided for item in wanted]
        # One in three by whoever does not decide any more, and may not know.
        deciders = self.world.deciders
        decider = deciders.before if self.order % 3 == 0 else deciders.now
        begun = time.monotonic()
        answers = self.world.do(decider.create(batches, tasks, taken, decided, WORKER))
        now = time.monotonic()
        for item, task, answer, takes in zip(wanted, tasks, answers, taken, strict=True):
            request, payload = item[1], item[2:]
            before = self.requests.get(request)
            if before is not None and before[1] != payload:
                assert isinstance(answer, RequestIdReused), (answer, before, payload)
                continue
            assert not isinstance(answer, Exception), answer
            if before is not None:
                assert answer.task_id == before[0]
                continue
            assert answer.task_id not in self.models
            if request:
                self.requests[request] = (answer.task_id, payload)
            _, _, priority, most, _, times, key, _ = item
            queue = self.queues[item[-1]]
            model = self.keep(answer.task_id, priority, most, times=times, key=key, queue=queue)
            assert answer.state is (State.SCHEDULED if times == "later" else State.PENDING)
            # Of a queue with limits it starts if they leave room.
            if takes and (not queue.decided or (task.run is not None and task.run.state is State.RUNNING)):
                model.start(lost=dying)
                self.world.seen["started at once"] += 1
                self.world.seen["started at once within limits"] += queue.decided and queue.limited
                if queue.decided:
                    assert decider is deciders.now, "one that decides no more has started it"
                    queue.bucket.spend(1, begun, now)
                    assert queue.allows(model, self.models.values())

    def create_child(self, model: Model, back: int, *, by_worker: bool) -> None:
        attempt = max(model.attempt - back, 1) if by_worker else 0
        queue = self.home_of(model)
        task = self.asked(self.message(2, 2, "child", model.task_id, queue=queue), attempt=attempt, tenant=model.tenant)
        [answer] = self.world.do(self.world.batches.create([task]))
        if attempt and (model.state is not State.RUNNING or model.attempt != attempt):
            assert isinstance(answer, StaleAttempt | ParentTaskEnded), answer
        elif model.state.ended:
            assert isinstance(answer, ParentTaskEnded), answer
        else:
            assert not isinstance(answer, Exception), answer
            self.keep(answer.task_id, 2, 2, model.task_id, queue=queue, tenant=model.tenant)

    def call_tool(self, model: Model, back: int) -> None:
        """An attempt has a tool called, and what came of it is told once with it and once more."""
        attempt, run = max(model.attempt - back, 1), new_id()
        called = Told(model.tenant, model.task_id, attempt, "", "ada", ToolCalled("tool", f"{run}/called", b""))
        returned = Told(
            model.tenant, model.task_id, attempt, f"{run}/called", "ada", ToolReturned("tool", f"{run}/returned", b"")
        )
        answers = self.world.do(self.world.batches.append([called, returned]))
        assert self.world.do(self.world.batches.append([returned, called])) == answers[::-1]
        if model.state.ended:
            wanted = "TASK_ENDED"
        elif attempt > model.attempt:
            wanted = "INVALID_ARGUMENT"
        else:
            wanted = "STALE_ATTEMPT" if attempt < model.attempt else ""
        assert [answer.reason if isinstance(answer, Refusal) else "" for answer in answers] == [wanted, wanted]
        model.told += [answer for answer in answers if isinstance(answer, int)]
        self.world.seen["tool refused" if wanted else "tool called"] += 1

    def create_after(self, upstreams: Sequence[Model], policy: FailurePolicy) -> None:
        """A task that waits for others, which may have ended."""
        tenant = upstreams[0].tenant
        needs = {model.task_id: model for model in upstreams if model.tenant == tenant}
        queue = self.home_of(upstreams[0])
        new = self.asked(self.message(2, 2, "after", needs=[(task_id, policy) for task_id in needs], queue=queue), tenant=tenant)
        [answer] = self.world.do(self.world.batches.create([new]))
        assert not isinstance(answer, Exception), answer
        assert (answer.state, answer.blocked_by) == (State.BLOCKED, len(needs))
        self.block(self.keep(answer.task_id, 2, 2, queue=queue, tenant=tenant), needs, policy)
        self.world.seen["blocked"] += 1

    def start(self, number: int, *, dying: bool) -> None:
        """The waiting tasks of the highest priority, the oldest first."""
        batches = self.world.dying if dying else self.world.batches
        leases = self.world.do(batches.lease(self.demand, [WORKER] * number))
        given = [lease.run.task_id for lease in leases]
        waiting = [m for m in self.models.values() if m.state is State.PENDING and not m.late and not m.decided]
        waiting.sort(key=lambda model: (-model.queue_priority, -model.priority, model.order))
        assert given == [model.task_id for model in waiting][:number], "not the first in line, or somebody was left waiting"
        for lease in leases:
            self.started(lease, lost=dying)

    def started(self, lease: Lease, *, lost: bool) -> None:
        """A task has started, and its worker is given what it needs to go on."""
        model = self.models[lease.run.task_id]
        self.world.seen["leased again"] += model.attempt > 0
        model.start(lost=lost)
        assert lease.run.attempt == model.attempt
        assert task_pb2.Task.FromString(lease.spec).context_payload == model.context
        assert {step.step_id: step.attempt for step in lease.steps} == model.steps
        assert {each.task_id: each.state for each in lease.dependencies} == model.needs
        self.world.seen["unblocked"] += bool(model.needs)

    def report(self, reports: Sequence[Report]) -> None:
        """Several in one transaction, of any attempts, also twice the same."""
        answers = self.world.do(self.world.batches.report(reports))
        ended: list[Model] = []
        for item, answer in zip(reports, answers, strict=True):
            wanted = self.judge(item, ended)
            assert (answer.reason if answer else "") == wanted, (item, answer)
            self.world.seen["refused" if wanted else "accepted"] += 1
        self.cascade(ended)

    def reported(self, model: Model, what: str, back: int) -> list[Report]:
        """What a worker tells: mostly one report."""
        attempt = max(model.attempt - back, 1)
        head = (None, WORKER, model.task_id, attempt)
        if what == "complete":
            return [CompletionReport(*head, b"\x1a\x02" + f"{attempt:02d}".encode())]
        if what.startswith("step "):
            return [StepReport(*head, what.removeprefix("step "), b"\x20\x01")]
        if what.startswith("wait "):
            return [WaitReport(*head, what.removeprefix("wait "), "please", HOUR)]
        if what == "get on":
            return [ProgressReport(*head, 0.25)]
        if what.startswith("put out"):
            # The last once more since its answer was lost, the next one, also twice, or one that is not its turn yet.
            sequence = max(1, model.chunks + {"again": 0, "more": 2}.get(what.removeprefix("put out "), 1))
            return [OutputReport(*head, sequence, f"{attempt}/{sequence} ")] * (1 + (what == "put out twice"))
        reason = "BAD" if what == "fail badly" else "BROKEN"
        delay = HOUR if what == "fail" and not model.patient else None
        waits = what in ("fail", "fail badly") and (model.patient or delay is not None)
        return [FailureReport(*head, reason, "it broke", what != "fail for good", delay, back_off=waits)]

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
            if isinstance(item, OutputReport) and not model.state.ended and item.sequence <= model.chunks:
                self.world.seen["put out before"] += 1
                return ""
        if model.stop_reason(item.attempt):
            return "STALE_ATTEMPT"
        if isinstance(item, OutputReport):
            if item.sequence != model.chunks + 1:
                self.world.seen["put out too soon"] += 1
                return "INVALID_ARGUMENT"
            model.quiet = False
            model.chunks += 1
            model.put_out.append((item.attempt, item.sequence, item.text))
            model.says("output")
        elif isinstance(item, ProgressReport):
            model.says("progressed")
        elif isinstance(item, StepReport):
            # Also one that is told again is a sign of life.
            model.quiet = False
            if item.step_id not in model.steps:
                model.steps[item.step_id] = item.attempt
                model.says("step_completed")
        elif isinstance(item, WaitReport):
            model.wait(item.signal)
        elif isinstance(item, CompletionReport) and is_payload(item.result):
            payload_id = named_payload(item.result)
            if payload_id not in self.bodies:
                self.world.seen["result is gone"] += 1
                return "PAYLOAD_NOT_FOUND"
            model.payload = payload_id
            self.world.seen["result is a payload"] += 1
            model.end(State.COMPLETED, "completed")
        elif isinstance(item, CompletionReport):
            model.result = item.result[2:].decode()
            model.end(State.COMPLETED, "completed")
        else:
            retryable = item.retryable and not (model.patient and item.reason == "BAD")
            model.fail_attempt(item.reason, retryable=retryable, waits=item.back_off)
        if model.state.ended:
            ended.append(model)
        return ""

    def heartbeat(self, beats: list[tuple[Model, int]], progress: float | None) -> None:
        sent = [(model.task_id, max(model.attempt - back, 1)) for model, back in beats]
        told = [Heartbeat(None, task_id, attempt, progress) for task_id, attempt in sent]
        answers = self.world.do(self.world.batches.heartbeat(told))
        for (task_id, attempt), answer in zip(sent, answers, strict=True):
            assert answer == self.models[task_id].stop_reason(attempt)
            if not answer:
                self.models[task_id].lost = False
                if progress is not None:
                    self.models[task_id].quiet = False

    def sweep(self) -> None:
        """Ends what timed out, gives back what lost its worker."""
        while self.world.do(self.world.batches.sweep()):
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
            case "lost":
                if model.state is not State.RUNNING:
                    return
                model.lost = True
            case "due":
                if model.state not in (State.SCHEDULED, State.WAITING):
                    return
                model.due = True
        self.world.do(_pass(self.world.engine, model.task_id, column))

    def tick(self) -> None:
        """Those whose moment has come wait for a worker."""
        due = [model for model in self.models.values() if model.due and not model.state.ended]
        while self.world.do(self.world.batches.make_ready()) == timedelta():
            pass
        for model in due:
            if model.state is State.WAITING:
                model.signalled(model.signal)
            else:
                model.ready()

    def signal(self, model: Model, signal: str, back: int) -> None:
        """A value for a name, which is the first, the same again, or another."""
        value = Value(number_value=back).SerializeToString(deterministic=True)
        signalling = self.world.signals.signal(model.tenant, model.task_id, signal, value, "ada")
        if model.state.ended:
            with pytest.raises(TaskEnded):
                self.world.do(signalling)
        elif signal not in model.steps:
            self.world.do(signalling)
            model.signalled(signal)
            self.values[model.task_id, signal] = back
        elif self.values.get((model.task_id, signal)) == back:
            self.world.do(signalling)
        else:
            with pytest.raises(SignalAlreadySent):
                self.world.do(signalling)

    def cancel(self, model: Model) -> None:
        cancelling = self.world.cancellations.cancel(model.tenant, model.task_id, "enough", "ada")
        if model.state.ended:
            with pytest.raises(TaskNotCancellable):
                self.world.do(cancelling)
            return
        assert self.world.do(cancelling).state is State.CANCELLED
        model.end(State.CANCELLED, "cancelled")
        self.cascade([model])

    def unblock(self) -> None:
        """Whatever the first blocked task waits for completes, if it runs, and some start."""
        blocked = next((model for model in self.models.values() if model.state is State.BLOCKED), None)
        if blocked is None:
            return
        for upstream in [self.models[task_id] for task_id, state in blocked.needs.items() if state is None]:
            if upstream.state is State.RUNNING and not upstream.late:
                self.report(self.reported(upstream, "complete", 0))
        self.start(4, dying=False)

    def block(self, model: Model, needs: Mapping[str, Model], policy: FailurePolicy) -> None:
        """A new task waits for others, or is told at once how they have ended."""
        model.state, model.policy, model.needs = State.BLOCKED, policy, dict.fromkeys(needs)
        for upstream in needs.values():
            if upstream.state.ended:
                model.hears(upstream.task_id, upstream.state)


async def _pass(engine: EngineDriver, task_id: str, column: str) -> None:
    async with engine.transaction() as connection:
        await connection.execute(
            f"UPDATE tasks SET {column} = clock_timestamp() - interval '1 second', check_at = clock_timestamp()"
            " WHERE task_id = $1",
            task_id,
        )
