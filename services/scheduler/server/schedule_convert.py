"""Between the messages of ScheduleService and the domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from guildmesh.scheduler.v1 import schedule_pb2 as pb
from guildmesh.scheduler.v1 import schedule_service_pb2 as service_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2

from services.common.errors import InvalidRequest
from services.common.telemetry.tracing import new_traceparent
from services.scheduler.domain import schedule as domain
from services.scheduler.domain.task import DEFAULT_QUEUE, NewTask
from services.scheduler.server.convert import moment, new_task

_LABELS = (domain.SCHEDULE_ID_LABEL, domain.SCHEDULE_TIME_LABEL)


def new_schedule(request: service_pb.CreateScheduleRequest, tenant_id: str, subject: str) -> tuple[domain.Schedule, str]:
    """The schedule of CreateSchedule with its defaults, and the queue of its tasks; raises InvalidRequest."""
    message = request.schedule
    if request.schedule_id and message.schedule_id not in ("", request.schedule_id):
        raise InvalidRequest([("schedule.schedule_id", "must be schedule_id, or empty")])
    values = _values(message, list(_READ))
    schedule = domain.Schedule(
        tenant_id=tenant_id, schedule_id=request.schedule_id or message.schedule_id, created_by=subject, **values
    )
    return schedule, message.task.queue or DEFAULT_QUEUE


def changes(request: service_pb.UpdateScheduleRequest) -> tuple[Mapping[str, object], str | None]:
    """What UpdateSchedule changes, by attributes of the domain's schedule, and the queue of a new task; raises InvalidRequest."""
    message = request.schedule
    if not message.schedule_id:
        raise InvalidRequest([("schedule.schedule_id", "must name the schedule to change")])
    paths = list(request.update_mask.paths)
    if paths == ["*"]:
        paths = list(_READ)
    elif not paths:
        paths = [field.name for field, _ in message.ListFields() if field.name in _READ]
        if not paths:
            raise InvalidRequest([("update_mask", f"must name what to change: one or more of {', '.join(_READ)}")])
    unknown = [path for path in paths if path not in _READ]
    if unknown:
        raise InvalidRequest([("update_mask", f"{unknown[0]!r} cannot be changed; what can is {', '.join(_READ)}")])
    values = _values(message, paths)
    return values, (message.task.queue or DEFAULT_QUEUE) if "task" in paths else None


def schedule_message(schedule: domain.Schedule, *, preview: bool = True) -> pb.Schedule:
    """The schedule as its tenant sees it, with a preview of its next runs unless it is one of many."""
    message = pb.Schedule(
        schedule_id=schedule.schedule_id,
        tenant_id=schedule.tenant_id,
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        overlap_policy=pb.OverlapPolicy.ValueType(schedule.overlap_policy),
        missed_run_policy=pb.MissedRunPolicy.ValueType(schedule.missed_run_policy),
        paused=schedule.paused,
        note=schedule.note,
        last_task_id=schedule.last_task_id or "",
        run_count=schedule.run_count,
        skipped_count=schedule.skipped_count,
        last_error=schedule.last_error,
        created_by=schedule.created_by,
        etag=schedule.etag,
    )
    message.task.ParseFromString(schedule.task)
    if schedule.context is not None:
        message.task.context.MergeFromString(schedule.context)
        message.task.context.SetInParent()
    message.catch_up_window.FromTimedelta(schedule.catch_up_window)
    if schedule.jitter:
        message.jitter.FromTimedelta(schedule.jitter)
    for stamp, told in (
        ("start_time", schedule.start_time),
        ("end_time", schedule.end_time),
        ("next_run_time", schedule.wake_time),
        ("last_run_time", schedule.last_run_time),
        ("create_time", schedule.create_time),
        ("update_time", schedule.update_time),
    ):
        if told is not None:
            getattr(message, stamp).FromDatetime(told.astimezone(UTC))
    for run_time in schedule.preview() if preview else ():
        message.next_run_times.add().FromDatetime(run_time)
    return message


def scheduled_task(schedule: domain.Schedule, time: datetime | None, created_by: str, request_id: str) -> NewTask:
    """The task of a run, made as CreateTask makes it; the labels say of which schedule, and for which time."""
    request = scheduler_service_pb2.CreateTaskRequest(request_id=request_id)
    request.task.ParseFromString(schedule.task)
    if schedule.context is not None:
        request.task.context.MergeFromString(schedule.context)
        request.task.context.SetInParent()
    request.task.labels[domain.SCHEDULE_ID_LABEL] = schedule.schedule_id
    if time is not None:
        request.task.labels[domain.SCHEDULE_TIME_LABEL] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    # Nobody called for it: each run is a trace of its own.
    return new_task(request, schedule.tenant_id, created_by, new_traceparent())


def _values(message: pb.Schedule, names: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in names:
        values |= _READ[name](message)
    return values


def _task(message: pb.Schedule) -> dict[str, Any]:
    """The template: what CreateTask would take, without what is only told of a task."""
    if not message.HasField("task"):
        raise InvalidRequest([("schedule.task", "must be what each run is to create")])
    request = scheduler_service_pb2.CreateTaskRequest(task=message.task)
    task = request.task
    if task.parent_task_id:
        raise InvalidRequest([("schedule.task.parent_task_id", "must be empty: a run is no part of another task")])
    if task.dependencies:
        raise InvalidRequest([("schedule.task.dependencies", "must be empty: all runs would depend on the same tasks")])
    for name, instead in (("schedule_time", "delay"), ("deadline", "total_timeout")):
        if task.HasField(name):  # type: ignore[arg-type]
            raise InvalidRequest(
                [(f"schedule.task.{name}", f"must be empty: it would be one moment for all runs; use {instead}")]
            )
    for label in _LABELS:
        task.labels.pop(label, None)
    if len(task.labels) > domain.MOST_LABELS:
        text = f"must have at most {domain.MOST_LABELS} pairs, since each run adds {len(_LABELS)}"
        raise InvalidRequest([("schedule.task.labels", text)])
    # It refuses what CreateTask refuses, and leaves in the request what the caller chose, but for the context.
    new = new_task(request, "", "", "")
    return {
        "task": task.SerializeToString(deterministic=True),
        "context": new.context,
        "context_payload": new.context_payload,
    }


def _time(name: str) -> Callable[[pb.Schedule], dict[str, Any]]:
    def read(message: pb.Schedule) -> dict[str, Any]:
        return {name: moment(getattr(message, name), f"schedule.{name}") if message.HasField(name) else None}  # type: ignore[arg-type]

    return read


def _duration(name: str, default: timedelta) -> Callable[[pb.Schedule], dict[str, Any]]:
    return lambda message: {name: getattr(message, name).ToTimedelta() if message.HasField(name) else default}  # type: ignore[arg-type]


_READ: Mapping[str, Callable[[pb.Schedule], dict[str, Any]]] = {
    "cron": lambda message: {"cron": message.cron.strip()},
    "time_zone": lambda message: {"time_zone": message.time_zone or domain.DEFAULT_TIME_ZONE},
    "task": _task,
    "overlap_policy": lambda message: {
        "overlap_policy": domain.OverlapPolicy(message.overlap_policy or domain.OverlapPolicy.SKIP)
    },
    "missed_run_policy": lambda message: {
        "missed_run_policy": domain.MissedRunPolicy(message.missed_run_policy or domain.MissedRunPolicy.RUN_LAST)
    },
    "catch_up_window": _duration("catch_up_window", domain.DEFAULT_CATCH_UP),
    "jitter": _duration("jitter", timedelta()),
    "paused": lambda message: {"paused": message.paused},
    "note": lambda message: {"note": message.note},
    "start_time": _time("start_time"),
    "end_time": _time("end_time"),
}
"""How each field that somebody may choose is read, with its default."""
