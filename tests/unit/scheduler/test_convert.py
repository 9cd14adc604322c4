"""Between the messages of the contracts and the domain."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from google.protobuf.struct_pb2 import Struct, Value
from guildmesh.scheduler.v1 import scheduler_service_pb2 as service_pb
from guildmesh.scheduler.v1 import task_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import new_id
from services.scheduler.domain.dependency import Outcome
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import Lease, State, Step
from services.scheduler.domain.worker import Refusal, SchedulerMessage
from services.scheduler.server.convert import new_task, work_responses

TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
ATTEMPTS = st.integers(1, 40_000)
STEPS = st.lists(
    st.builds(Step, TEXTS, ATTEMPTS, st.builds(lambda t: Value(string_value=t).SerializeToString(), TEXTS)), max_size=3
)
OUTCOMES = st.builds(
    Outcome,
    st.builds(new_id),
    TEXTS,
    st.sampled_from([State.COMPLETED, State.FAILED, State.CANCELLED]),
    st.none() | st.builds(lambda t: Value(string_value=t).SerializeToString(), TEXTS),
    st.none() | TEXTS,
    TEXTS,
    omitted=st.booleans(),
)
RUNS = st.builds(
    Run,
    tenant_id=TEXTS, task_id=st.builds(new_id), shard=st.just(0), state=st.just(State.RUNNING), queue=TEXTS, kind=TEXTS,
    priority=st.integers(1, 10), attempt=ATTEMPTS, max_attempts=st.just(5), timeout_ms=st.just(1000),
    next_event_number=st.integers(2, 2**31 - 1), has_children=st.just(False), parent_task_id=st.none(),
    traceparent=st.sampled_from(["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]), available_at=TIMES,
    start_time=st.none() | TIMES, progress=st.floats(0, 1, width=32),
)  # fmt: skip
CONTEXTS = st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3).map(
    lambda fields: Struct(fields={name: Value(string_value=value) for name, value in fields.items()}).SerializeToString()
)
LEASES = st.builds(
    Lease,
    RUNS,
    st.builds(
        lambda text, labels: pb.Task(description=text, labels=labels).SerializeToString(), TEXTS, st.dictionaries(TEXTS, TEXTS)
    ),
    CONTEXTS,
    TIMES,
    st.timedeltas(timedelta(), timedelta(hours=1)),
    STEPS.map(tuple),
    st.lists(OUTCOMES, max_size=2).map(tuple),
)
ACKS = st.tuples(st.one_of(st.builds(new_id), TEXTS), ATTEMPTS, st.sampled_from(["", "step"]))


def by_protobuf(message: SchedulerMessage) -> worker_pb.WorkResponse:
    response = worker_pb.WorkResponse(drain=message.drain)
    for lease in message.leases:
        run = lease.run
        part = response.leases.add(traceparent=run.traceparent)
        part.task.ParseFromString(lease.spec)
        part.task.MergeFrom(
            pb.Task(
                state=pb.TaskState.TASK_STATE_RUNNING, status="running", attempt=run.attempt, progress=run.progress,
                last_event_number=run.next_event_number - 1,
            )
        )  # fmt: skip
        part.task.create_time.FromDatetime(lease.create_time)
        if run.start_time is not None:
            part.task.start_time.FromDatetime(run.start_time)
        if lease.context is not None:
            part.task.context.MergeFromString(lease.context)
            part.task.context.SetInParent()
        part.remaining.FromTimedelta(lease.remaining)
        for step in lease.steps:
            entry = part.steps.add(task_id=run.task_id, attempt=step.attempt, step_id=step.step_id)
            entry.result.MergeFromString(step.result)
        for outcome in lease.dependencies:
            told = part.dependencies.add(task_id=outcome.task_id, name=outcome.name, result_omitted=outcome.omitted)
            told.state = pb.TaskState.ValueType(outcome.state)
            if outcome.result is not None:
                told.result.MergeFromString(outcome.result)
            if outcome.error_reason is not None:
                told.error.reason, told.error.message = outcome.error_reason, outcome.error_message or ""
    for task_id, attempt, step_id in message.acks:
        response.acks.add(task_id=task_id, attempt=attempt, step_id=step_id)
    for task_id, attempt, step_id, refusal in message.refusals:
        response.refusals.add(task_id=task_id, attempt=attempt, step_id=step_id, reason=refusal.reason, message=refusal.message)
    return response


@given(st.lists(LEASES, max_size=3), st.lists(ACKS, max_size=3), st.booleans(), st.lists(ACKS, max_size=2))
def test_what_is_told_a_worker_reads_as_protobuf_would_have_written_it(
    leases: list[Lease], acks: list[tuple[str, int, str]], drain: bool, refused: list[tuple[str, int, str]]
) -> None:
    message = SchedulerMessage(leases=leases, acks=acks, drain=drain)
    message.refusals = [(*key, Refusal("STALE_ATTEMPT", "Stop.")) for key in refused]
    assert worker_pb.WorkResponse.FromString(b"".join(work_responses(message))) == by_protobuf(message)


def test_what_is_too_much_for_one_message_is_told_in_several_and_the_welcome_comes_first() -> None:
    run = Run("acme", new_id(), 0, State.RUNNING, "q", "k", 5, 1, 5, 1000, 2, False, None, "", NOW, start_time=NOW)
    lease = Lease(run, b"", Struct(fields={"x": Value(string_value="x" * 3_000_000)}).SerializeToString(), NOW, timedelta(1))
    message = SchedulerMessage(welcome=(timedelta(1), timedelta(1)), leases=[lease] * 5, acks=[("task", 1, "")])
    parts = [worker_pb.WorkResponse.FromString(part) for part in work_responses(message)]
    assert [len(part.leases) for part in parts] == [2, 2, 1]
    assert [(part.HasField("welcome"), len(part.acks)) for part in parts] == [(True, 1), (False, 0), (False, 0)]


def test_nobody_chooses_what_only_the_scheduler_says() -> None:
    sent = pb.Task(
        description="x", task_id=new_id(), tenant_id="theirs", created_by="nobody", status="completed", attempt=9, progress=0.5,
        last_event_number=7, state=pb.TaskState.TASK_STATE_COMPLETED, error=pb.TaskError(reason="X"),
    )  # fmt: skip
    task = new_task(service_pb.CreateTaskRequest(task=sent), "acme", "ada", "")
    kept = pb.Task.FromString(task.spec)
    assert (kept.task_id, kept.tenant_id, kept.created_by) == (task.task_id, "acme", "ada")
    assert kept == pb.Task(
        task_id=task.task_id, tenant_id="acme", created_by="ada", queue="default", kind="agent.task", description="x", priority=5,
        max_attempts=5, timeout=kept.timeout,
    )  # fmt: skip
    assert kept.timeout.seconds == 300


def test_what_the_caller_chose_is_kept_and_the_input_apart_from_it() -> None:
    sent = pb.Task(
        description="x", queue="code", kind="k", priority=0, max_attempts=1, labels={"a": "b"}, parent_task_id=new_id().upper(),
        context=Struct(fields={"n": Value(number_value=1)}),
    )  # fmt: skip
    sent.timeout.FromMilliseconds(12_345)
    task = new_task(service_pb.CreateTaskRequest(task=sent, request_id="r", parent_attempt=2), "acme", "ada", "trace")
    kept = pb.Task.FromString(task.spec)
    assert (task.priority, task.max_attempts, task.timeout_ms, task.queue, task.kind) == (0, 1, 12_345, "code", "k")
    assert (kept.priority, kept.max_attempts, kept.timeout.ToMilliseconds(), kept.queue) == (0, 1, 12_345, "code")
    assert kept.HasField("priority")
    assert not kept.HasField("context")
    assert task.parent_task_id == kept.parent_task_id == sent.parent_task_id.lower()
    assert Struct.FromString(task.context or b"") == Struct(fields={"n": Value(number_value=1)})


def test_the_same_choice_has_the_same_hash_whether_defaults_are_sent_or_left_out() -> None:
    plain = new_task(service_pb.CreateTaskRequest(task=pb.Task(description="x"), request_id="r"), "acme", "ada", "")
    spelled = pb.Task(description="x", queue="default", kind="agent.task", priority=5, max_attempts=5, status="failed")
    spelled.timeout.seconds = 300
    again = new_task(service_pb.CreateTaskRequest(task=spelled, request_id="r"), "acme", "eve", "")
    assert plain.payload_hash() == again.payload_hash()
    assert plain.payload_hash() != replace(again, context=b"").payload_hash()
