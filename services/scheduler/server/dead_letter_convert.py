"""Between the messages of DeadLetterService and the domain."""

from __future__ import annotations

from datetime import UTC, datetime

from guildmesh.scheduler.v1 import dead_letter_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2, task_pb2

from services.scheduler.domain.dead_letter import DeadLetter
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.server.convert import new_task

# A replay is nobody's part, and whoever asks for it wants it now.
_LEFT_OUT = ("parent_task_id", "schedule_time", "delay")


def dead_letter_message(letter: DeadLetter) -> pb.DeadLetter:
    """The dead letter as its tenant sees it."""
    message = pb.DeadLetter(
        task_id=letter.task_id,
        tenant_id=letter.tenant_id,
        queue=letter.queue,
        kind=letter.kind,
        reason=letter.reason,
        attempts=letter.attempts,
        replay_task_id=letter.replay_task_id or "",
    )
    message.fail_time.FromDatetime(letter.fail_time.astimezone(UTC))
    if letter.replay_time is not None:
        message.replay_time.FromDatetime(letter.replay_time.astimezone(UTC))
    return message


def replayed_task(task: Task, now: datetime, created_by: str, request_id: str) -> NewTask:
    """The task that repeats another one, made as CreateTask makes it; it says of which."""
    request = scheduler_service_pb2.CreateTaskRequest(request_id=request_id)
    message = request.task
    message.ParseFromString(task.spec)
    for name in _LEFT_OUT:
        message.ClearField(name)  # type: ignore[arg-type]
    if message.HasField("deadline") and message.deadline.ToDatetime(UTC) <= now:
        message.ClearField("deadline")
    if task.context is not None:
        message.context.MergeFromString(task.context)
        message.context.SetInParent()
    new = new_task(request, task.tenant_id, created_by, task.traceparent)
    new.spec += task_pb2.Task(replay_of=task.task_id).SerializeToString()
    # Its request id is made of the failed task's id; and a repeat may find its deadline over, or a dependency replayed.
    new.payload = b""
    return new
