"""`guildmesh schedules`: what starts tasks at the times of a cron expression."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import schedule_pb2
from guildmesh.scheduler.v1 import schedule_service_pb2 as pb
from guildmesh.scheduler.v1 import schedule_service_pb2_grpc as stubs
from rich.markup import escape
from rich.table import Table

from guildmesh_client.cli.connection import connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import err, out, print_json
from guildmesh_client.cli.tasks import json_object
from guildmesh_client.cli.times import moment_of, seconds_of

app = typer.Typer(help="Schedules: list, get, create, update, pause, resume, trigger, backfill, delete.", no_args_is_help=True)

_SECONDS = 30.0
_OVERLAP = {
    name.removeprefix("OVERLAP_POLICY_").lower().replace("_", "-"): number
    for name, number in schedule_pb2.OverlapPolicy.items()
    if number
}
_MISSED = {
    name.removeprefix("MISSED_RUN_POLICY_").lower().replace("_", "-"): number
    for name, number in schedule_pb2.MissedRunPolicy.items()
    if number
}

ScheduleId = Annotated[str, typer.Argument(help="The id of the schedule.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Cron = Annotated[str, typer.Option(help="When: five fields, such as '30 2 * * MON-FRI', or @hourly, @daily, …")]
Zone = Annotated[str, typer.Option(help="The time zone of --cron, such as Europe/Berlin; UTC if empty.")]
Overlap = Annotated[str, typer.Option(help=f"While earlier runs go on: {', '.join(_OVERLAP)}.")]
Missed = Annotated[str, typer.Option(help=f"What nobody could start in time: {', '.join(_MISSED)}.")]
CatchUp = Annotated[str, typer.Option(help="How late a missed run may be, from 1m to 7d, such as 2h.")]
Jitter = Annotated[str, typer.Option(help="By how much a run is delayed at most, at random, up to 1h, such as 5m.")]
Description = Annotated[str, typer.Option(help="What each run is to do, in plain words.")]
Queue = Annotated[str, typer.Option(help="The queue of the tasks; the default one if empty.")]
Kind = Annotated[str, typer.Option(help="The kind of the tasks, which chooses who runs them.")]
Context = Annotated[str, typer.Option(help="A JSON object that goes with each task.")]
Note = Annotated[str, typer.Option(help="Why, for people.")]
RequestId = Annotated[str, typer.Option(help="Sent again with the same id, it happens once.")]


@app.command("list")
def list_schedules(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 200, as_json: AsJson = False
) -> None:
    """List your schedules."""
    found: list[schedule_pb2.Schedule] = []
    page_token = ""
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        while len(found) < limit:
            request = pb.ListSchedulesRequest(page_size=min(limit - len(found), 200), page_token=page_token)
            response = stub.ListSchedules(request, metadata=connection.metadata, timeout=_SECONDS)
            found += response.schedules
            page_token = response.next_page_token
            if not page_token:
                break
    if as_json:
        print_json(pb.ListSchedulesResponse(schedules=found, next_page_token=page_token))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("schedule", "cron", "zone", "next run (UTC)", "runs", "skipped", "description"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis" if heading == "description" else "fold")
    for schedule in found:
        table.add_row(
            schedule.schedule_id,
            escape(schedule.cron),
            schedule.time_zone,
            _next(schedule),
            str(schedule.run_count),
            str(schedule.skipped_count),
            escape(" ".join(schedule.task.description.split())),
        )
    out.print(table)
    if not found:
        err.print("no schedules", style="dim")


@app.command("get")
def get_schedule(schedule_id: ScheduleId) -> None:
    """Show one schedule as JSON, with its next five runs."""
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        print_json(
            stub.GetSchedule(pb.GetScheduleRequest(schedule_id=schedule_id), metadata=connection.metadata, timeout=_SECONDS)
        )


@app.command("create")
def create_schedule(
    description: Annotated[str, typer.Argument(help="What each run is to do, in plain words.")],
    cron: Cron,
    schedule_id: Annotated[str, typer.Option("--id", help="The id of the schedule; given one if empty.")] = "",
    zone: Zone = "",
    queue: Queue = "",
    kind: Kind = "",
    context: Context = "",
    overlap: Overlap = "",
    missed: Missed = "",
    catch_up: CatchUp = "",
    jitter: Jitter = "",
    paused: Annotated[bool, typer.Option("--paused", help="Start nothing until it is resumed.")] = False,
    note: Note = "",
) -> None:
    """Create a schedule and print its id and its next run."""
    schedule = _schedule(
        cron=cron, zone=zone, description=description, queue=queue, kind=kind, context=context, overlap=overlap, missed=missed,
        catch_up=catch_up, jitter=jitter, note=note,
    )  # fmt: skip
    schedule.paused = paused
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        request = pb.CreateScheduleRequest(schedule=schedule, schedule_id=schedule_id)
        created = stub.CreateSchedule(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(created.schedule_id, highlight=False)
    err.print(f"next run: {_next(created)}", style="dim", highlight=False)


@app.command("update")
def update_schedule(
    schedule_id: ScheduleId,
    cron: Cron = "",
    zone: Zone = "",
    description: Description = "",
    queue: Queue = "",
    kind: Kind = "",
    context: Context = "",
    overlap: Overlap = "",
    missed: Missed = "",
    catch_up: CatchUp = "",
    jitter: Jitter = "",
    note: Note = "",
    etag: Annotated[str, typer.Option(help="Refuse when somebody has changed it since it had this etag.")] = "",
) -> None:
    """Change what is given, and leave the rest.

    --queue, --kind and --context need --description: the task is replaced as a whole.
    """
    if not description and (queue or kind or context):
        raise CommandError("The task is replaced as a whole: give --description, too.")
    schedule = _schedule(
        cron=cron, zone=zone, description=description, queue=queue, kind=kind, context=context, overlap=overlap, missed=missed,
        catch_up=catch_up, jitter=jitter, note=note,
    )  # fmt: skip
    paths = [field.name for field, _ in schedule.ListFields()]
    if not paths:
        raise CommandError("There is nothing to change; see `guildmesh schedules update --help`.")
    schedule.schedule_id, schedule.etag = schedule_id, etag
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        request = pb.UpdateScheduleRequest(schedule=schedule, update_mask=FieldMask(paths=paths))
        _tell(stub.UpdateSchedule(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("pause")
def pause_schedule(schedule_id: ScheduleId, note: Note = "") -> None:
    """Keep a schedule from starting tasks; those that run go on."""
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        request = pb.PauseScheduleRequest(schedule_id=schedule_id, note=note)
        _tell(stub.PauseSchedule(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("resume")
def resume_schedule(schedule_id: ScheduleId, note: Note = "") -> None:
    """Have a paused schedule start tasks again, from the next time on."""
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        request = pb.ResumeScheduleRequest(schedule_id=schedule_id, note=note)
        _tell(stub.ResumeSchedule(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("trigger")
def trigger_schedule(schedule_id: ScheduleId, request_id: RequestId = "") -> None:
    """Start one run now and print the id of its task."""
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        request = pb.TriggerScheduleRequest(schedule_id=schedule_id, request_id=request_id)
        answer = stub.TriggerSchedule(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(answer.task_id, highlight=False)


@app.command("backfill")
def backfill_schedule(
    schedule_id: ScheduleId,
    first: Annotated[str, typer.Option("--from", help="From when, such as 2026-11-22T10:00:00Z.")],
    last: Annotated[str, typer.Option("--to", help="Until when, in the past.")],
    request_id: RequestId = "",
) -> None:
    """Start the runs of a time that is over and print the ids of their tasks."""
    request = pb.BackfillScheduleRequest(
        schedule_id=schedule_id, start_time=_time("--from", first), end_time=_time("--to", last), request_id=request_id
    )
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        answer = stub.BackfillSchedule(request, metadata=connection.metadata, timeout=_SECONDS)
    for task_id in answer.task_ids:
        out.print(task_id, highlight=False)
    if not answer.task_ids:
        err.print("no runs in this time", style="dim")


@app.command("delete")
def delete_schedule(
    schedule_id: ScheduleId,
    etag: Annotated[str, typer.Option(help="Refuse when somebody has changed it since it had this etag.")] = "",
) -> None:
    """Delete a schedule; its tasks go on."""
    with connect() as connection:
        stub = stubs.ScheduleServiceStub(connection.channel)
        request = pb.DeleteScheduleRequest(schedule_id=schedule_id, etag=etag)
        stub.DeleteSchedule(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(f"{schedule_id} is deleted", highlight=False, markup=False)


def _schedule(
    *,
    cron: str,
    zone: str,
    description: str,
    queue: str,
    kind: str,
    context: str,
    overlap: str,
    missed: str,
    catch_up: str,
    jitter: str,
    note: str,
) -> schedule_pb2.Schedule:
    schedule = schedule_pb2.Schedule(cron=cron, time_zone=zone, note=note)
    if overlap:
        schedule.overlap_policy = schedule_pb2.OverlapPolicy.ValueType(_number("--overlap", overlap, _OVERLAP))
    if missed:
        schedule.missed_run_policy = schedule_pb2.MissedRunPolicy.ValueType(_number("--missed", missed, _MISSED))
    if description:
        schedule.task.description, schedule.task.queue, schedule.task.kind = description, queue, kind
        if context:
            schedule.task.context.update(json_object(context))
    if catch_up:
        schedule.catch_up_window.FromTimedelta(timedelta(seconds=seconds_of(catch_up, "--catch-up")))
    if jitter:
        schedule.jitter.FromTimedelta(timedelta(seconds=seconds_of(jitter, "--jitter")))
    return schedule


def _number(option: str, word: str, known: Mapping[str, int]) -> int:
    if word not in known:
        raise CommandError(f"{option} cannot be {word!r}; it is one of {', '.join(known)}.")
    return known[word]


def _time(option: str, text: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment_of(text, option))
    return stamp


def _next(schedule: schedule_pb2.Schedule) -> str:
    if schedule.paused:
        return "paused"
    if not schedule.HasField("next_run_time"):
        return "none"
    return schedule.next_run_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")


def _tell(schedule: schedule_pb2.Schedule) -> None:
    out.print(f"{schedule.schedule_id}: next run {_next(schedule)}", highlight=False, markup=False)
