"""One life of some tasks, and the models of them: what all moves go by."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from hypothesis.stateful import RuleBasedStateMachine

from services.scheduler.domain.payload import is_payload
from services.scheduler.domain.queue import EVERY_TENANT
from services.scheduler.domain.task import DEFAULT_MAX_ATTEMPTS, NewTask, State
from services.scheduler.server.convert import new_task
from services.scheduler.server.payload_convert import payload_id_in
from services.scheduler.usecases.queues import put_in
from tests.integration.scheduler.task_life.model import TENANT, Model
from tests.integration.scheduler.task_life.queue_model import QueueModel
from tests.integration.scheduler.task_life.world import RETENTION_DAYS, World

WORKER = "worker-1"
HOUR = timedelta(hours=1)
_LETTER = "SELECT queue, retention_days, replay_task_id::text FROM dead_letters WHERE tenant_id = $1 AND task_id = $2"
_KEPT = "SELECT retention_days FROM finished_tasks WHERE tenant_id = $1 AND task_id = $2"


class Life(RuleBasedStateMachine):
    """What is known of the tasks of a machine; all are in queues of its own, the last of which two tenants share."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.uid = str(uuid.uuid4())
        self.kind = f"life-{self.uid.replace('-', '')[:12]}"
        self.models: dict[str, Model] = {}
        self.requests: dict[str, tuple[str, tuple[Any, ...]]] = {}
        self.values: dict[tuple[str, str], int] = {}
        self.uploaded: list[str] = []
        """payloads, also those that are gone."""
        self.bodies: dict[str, str] = {}
        """of those that are there."""
        self.order = 0
        self.queues = (QueueModel(self.kind), QueueModel(f"{self.kind}-b"), QueueModel(f"{self.kind}-s", EVERY_TENANT))
        for queue in self.queues:
            self.world.do(self.world.queues.create(queue.row()))

    def at(self, place: int) -> Model:
        """A task by its place in a line in which the running ones stand first, since most happens to them."""
        line = sorted(self.models.values(), key=lambda model: (model.state is not State.RUNNING, model.state, model.order))
        return line[place % len(line)]

    def queue_at(self, place: int) -> QueueModel:
        """Mostly the first of the queues, never the shared one."""
        return self.queues[place % 3 // 2]

    def home_of(self, model: Model) -> QueueModel:
        """A queue for what comes of a task: that of all tenants, if it is another's."""
        return self.queue_at(self.order) if model.tenant == TENANT else self.queues[-1]

    def asked(self, task: task_pb2.Task, request: str = "", attempt: int = 0, tenant: str = TENANT) -> NewTask:
        """A task to create, with what its queue says."""
        request_id = f"{self.kind}-{request}" if request else ""
        new = new_task(pb.CreateTaskRequest(task=task, request_id=request_id, parent_attempt=attempt), tenant, "ada", "")
        put_in(new, next(queue for queue in self.queues if queue.name == task.queue).row(RETENTION_DAYS))
        return new

    def message(
        self,
        priority: int,
        most: int,
        text: str,
        parent: str = "",
        times: str = "",
        key: str = "",
        needs: Iterable[tuple[str, int]] = (),
        queue: QueueModel | None = None,
        context: str = "",
    ) -> task_pb2.Task:
        """What a client asks for; with `most` 0 it says nothing of its attempts."""
        queue = queue or self.queues[0]
        task = task_pb2.Task(description=text, kind=self.kind, queue=queue.name, priority=priority, parent_task_id=parent)
        task.concurrency_key, task.context_payload = key, context
        if most:
            task.max_attempts = most
        if times:
            for duration in (task.attempt_timeout, task.heartbeat_timeout, task.start_timeout, task.total_timeout):
                duration.FromTimedelta(HOUR)
            # The default's wait would be over by itself, sooner or later.
            task.retry_policy.initial_backoff.FromTimedelta(HOUR)
            task.retry_policy.non_retryable_reasons.append("BAD")
        if times == "later":
            task.delay.FromTimedelta(HOUR / 2)
        for task_id, policy in needs:
            task.dependencies.add(task_id=task_id, failure_policy=task_pb2.DependencyFailurePolicy.ValueType(policy))
        return task

    def keep(
        self,
        task_id: str,
        priority: int,
        most: int,
        parent: str = "",
        times: str = "",
        key: str = "",
        queue: QueueModel | None = None,
        tenant: str = TENANT,
    ) -> Model:
        """A task was created, of which the queue says what it does not say itself."""
        self.order += 1
        queue = queue or self.queues[0]
        model = self.models[task_id] = Model(
            task_id, self.order, priority, most or queue.max_attempts or DEFAULT_MAX_ATTEMPTS, parent, timed=times != ""
        )
        model.tenant = tenant
        model.patient = model.timed or queue.patient
        model.key, model.decided, model.home = key, queue.decided, queue
        model.queue_priority, model.retention_days = queue.priority, queue.retention_days or RETENTION_DAYS
        if times == "later":
            model.state = State.SCHEDULED
        return model

    def cascade(self, ended: Sequence[Model]) -> None:
        """Cancels whatever is left below, and tells those that depend on what has ended."""
        for ender in ended:
            for model in self.models.values():
                if model.state.ended:
                    continue
                if model.parent == ender.task_id:
                    model.end(State.CANCELLED, "cancelled")
                elif ender.task_id in model.needs:
                    model.hears(ender.task_id, ender.state)
                    self.world.seen["ended by a dependency"] += model.state.ended
                if model.state.ended:
                    self.cascade([model])

    def compare(self, model: Model) -> None:
        """The tables say of a task what its model says."""
        while self.world.do(self.world.batches.tell_parents()):
            pass
        task = self.world.do(self.world.tasks.get(model.tenant, model.task_id))
        assert task is not None
        found = (task.state, task.attempt, task.error_reason or "")
        assert found == (model.state, model.attempt, model.reason), model
        if model.payload:
            assert is_payload(task.result or b"")
            assert payload_id_in(task.result or b"") == model.payload
        else:
            assert (task.result or b"")[2:].decode() == model.result
        assert task_pb2.Task.FromString(task.spec).context_payload == model.context
        state, newest, stored = self.world.do(self.world.tasks.events(model.tenant, model.task_id, 0, 1000))
        assert (state, newest) == (model.state, task.last_event_number)
        assert [event.number for event in stored] == list(range(1, newest + 1))
        events = [TaskEvent.FromString(event.value) for event in stored]
        own = [event for event in events if not (event.WhichOneof("change") or "").startswith(("tool_", "child_"))]
        assert [(event.WhichOneof("change"), event.attempt) for event in own] == model.events
        put_out = [event for event in events if event.HasField("output")]
        assert [(event.attempt, event.output.sequence, event.output.text) for event in put_out] == model.put_out
        assert [event.number for event in events if event.source] == model.told
        self._compare_children(model, events)
        self._compare_kept(model)

    def _compare_children(self, model: Model, events: Sequence[TaskEvent]) -> None:
        """A parent knows of all its subtasks, in order; one that has ended, of those until then."""
        children = {child.task_id: child for child in self.models.values() if child.parent == model.task_id}
        begun = [event.child_created.child_task_id for event in events if event.HasField("child_created")]
        ended = [event.child_ended.child_task_id for event in events if event.HasField("child_ended")]
        assert len({*begun}) == len(begun)
        assert len({*ended}) == len(ended)
        for event in events:
            if event.HasField("child_ended"):
                child = event.child_ended
                assert child.state == children[child.child_task_id].state.name
                assert child.child_task_id in [e.child_created.child_task_id for e in events[: event.number]]
        self.world.seen["child_created"] += len(begun)
        self.world.seen["child_ended"] += len(ended)
        if model.state.ended:
            assert {*begun} <= children.keys()
        else:
            assert begun == list(children)
            assert {*ended} == {child.task_id for child in children.values() if child.state.ended}

    def _compare_kept(self, model: Model) -> None:
        """How long an ended task is kept, and its dead letter: each task that failed has one, and no other has."""
        if not model.state.ended:
            return
        days = model.retention_days
        if model.state is State.FAILED:
            days = model.letter_days or days
        assert self.world.query(_KEPT, model.tenant, model.task_id) == [(days,)], model
        assert model.home is not None
        letters = [(model.home.name, days, model.replay or None)] if model.state is State.FAILED else []
        assert self.world.query(_LETTER, model.tenant, model.task_id) == letters, model
