"""`guildmesh tasks`: list, show, create (one, or a graph), cancel, signal and watch tasks."""

from __future__ import annotations

import io
import json
from typing import Annotated, Any

import typer
from google.protobuf.json_format import Parse, ParseDict, ParseError
from google.protobuf.struct_pb2 import Value
from guildmesh.scheduler.v1 import queue_service_pb2, queue_service_pb2_grpc, task_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as stubs
from rich.markup import escape
from rich.table import Table

from guildmesh_client.cli.connection import connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import STATE_STYLES, err, out, print_json
from guildmesh_client.cli.payloads import upload
from guildmesh_client.cli.times import moment_of, seconds_of
from guildmesh_client.cli.watching import watch_task as watch_events
from guildmesh_client.options import TaskOptions, fill
from guildmesh_client.payloads import JSON_TYPE

app = typer.Typer(help="Tasks: list, get, create, create-graph, cancel, signal, watch, counts.", no_args_is_help=True)

_SECONDS = 30.0
# Larger ones lie in the object store, and the task names them.
_MOST_CONTEXT_BYTES = 1 << 20
_STATES = {name.removeprefix("TASK_STATE_").lower(): name for name, number in task_pb2.TaskState.items() if number}

TaskId = Annotated[str, typer.Argument(help="The id of the task.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_tasks(
    state: Annotated[str, typer.Option(help=f"Only those in this state: {', '.join(_STATES)}.")] = "",
    queue: Annotated[str, typer.Option(help="Only those of this queue.")] = "",
    filter_: Annotated[
        str, typer.Option("--filter", help="Only those that meet it, such as 'state = FAILED AND priority >= 7' (AIP-160).")
    ] = "",
    order_by: Annotated[str, typer.Option(help="create_time or finish_time, with desc for the latest first.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List your tasks, the newest first unless --order-by says otherwise."""
    if state and state not in _STATES:
        raise CommandError(f"No state {state!r}; the states are {', '.join(_STATES)}.")
    wanted = task_pb2.TaskState.Value(_STATES[state]) if state else task_pb2.TASK_STATE_UNSPECIFIED
    tasks: list[task_pb2.Task] = []
    with connect() as connection:
        stub = stubs.SchedulerServiceStub(connection.channel)
        page_token = ""
        while len(tasks) < limit:
            request = pb.ListTasksRequest(
                page_size=min(limit - len(tasks), 200),
                page_token=page_token,
                state=wanted,
                queue=queue,
                filter=filter_,
                order_by=order_by,
            )
            response = stub.ListTasks(request, metadata=connection.metadata, timeout=_SECONDS)
            tasks += response.tasks
            page_token = response.next_page_token
            if not page_token:
                break
    if as_json:
        print_json(pb.ListTasksResponse(tasks=tasks, next_page_token=page_token))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("task", "status", "queue", "created", "description"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis" if heading == "description" else "fold")
    for task in tasks:
        created = task.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        style = STATE_STYLES.get(task.status, "")
        description = escape(" ".join(task.description.split()))
        table.add_row(task.task_id, f"[{style}]{task.status}[/]" if style else task.status, task.queue, created, description)
    out.print(table)
    if not tasks:
        err.print("no tasks", style="dim")


@app.command("get")
def get_task(task_id: TaskId) -> None:
    """Show one task as JSON."""
    with connect() as connection:
        stub = stubs.SchedulerServiceStub(connection.channel)
        print_json(stub.GetTask(pb.GetTaskRequest(task_id=task_id), metadata=connection.metadata, timeout=_SECONDS))


@app.command("create")
def create_task(
    description: Annotated[str, typer.Argument(help="What is to be done, in plain words.")],
    queue: Annotated[str, typer.Option(help="The queue; the default one if empty.")] = "",
    key: Annotated[str, typer.Option(help="Its concurrency key, of which the queue may run only some at once.")] = "",
    context: Annotated[str, typer.Option(help="A JSON object that goes with it.")] = "",
    context_file: Annotated[
        typer.FileBinaryRead | None, typer.Option(help="A file with that object, of any size; - for stdin.")
    ] = None,
    priority: Annotated[int | None, typer.Option(min=1, max=10, help="1 to 10, the highest.")] = None,
    delay: Annotated[str, typer.Option(help="How long until it may start, such as 90s, 15m, 2h or 1d.")] = "",
    at: Annotated[str, typer.Option(help="When it may start, such as 2026-12-01T09:00:00+01:00.")] = "",
    within: Annotated[str, typer.Option(help="How long until it must have ended, such as 2h.")] = "",
    after: Annotated[
        list[str] | None, typer.Option(help="The id of a task that must have completed before; may be repeated.")
    ] = None,
    attempts: Annotated[int | None, typer.Option(min=1, max=20, help="How often a worker may start it.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, to find it by (list --filter 'labels.KEY = VALUE'); may be repeated.")
    ] = None,
    request_id: Annotated[str, typer.Option(help="Sent again with the same id, it is created once.")] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Watch it to its end.")] = False,
) -> None:
    """Create a task and print its id."""
    task = task_pb2.Task()
    if delay and at:
        raise CommandError("Give --delay or --at, not both.")
    if context and context_file:
        raise CommandError("Give --context or --context-file, not both.")
    body = context_file.read() if context_file else b""
    by_reference = len(body) > _MOST_CONTEXT_BYTES
    options: TaskOptions = {
        "queue": queue,
        "concurrency_key": key,
        "priority": priority,
        "max_attempts": attempts,
        "dependencies": after,
        "labels": _labels(label or []),
        "context": json_object(context, "--context") if context else None,
        "delay": seconds_of(delay, "--delay") if delay else None,
        "schedule_time": moment_of(at, "--at") if at else None,
        "total_timeout": seconds_of(within, "--within") if within else None,
    }
    if body:
        content = json_object(body, "--context-file")
        options["context"] = None if by_reference else content
    fill(task, description, options)
    with connect() as connection:
        if by_reference:
            task.context_payload = upload(connection, io.BytesIO(body), JSON_TYPE).payload_id
        stub = stubs.SchedulerServiceStub(connection.channel)
        request = pb.CreateTaskRequest(task=task, request_id=request_id)
        created = stub.CreateTask(request, metadata=connection.metadata, timeout=_SECONDS)
        out.print(created.task_id, highlight=False)
        if watch:
            watch_events(connection, created.task_id, 0, as_json=False)


@app.command("create-graph")
def create_graph(
    file: Annotated[
        typer.FileText,
        typer.Argument(
            help='JSON with the nodes as CreateTaskGraph takes them, such as {"nodes": [{"key": …, "task": …}]}; - for stdin.'
        ),
    ],
    request_id: Annotated[str, typer.Option(help="Sent again with the same id, it is created once.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create tasks that wait for each other, all or none, and print the key and the id of each."""
    try:
        request = Parse(file.read(), pb.CreateTaskGraphRequest())
    except ParseError as error:
        raise CommandError(f"{file.name} is not a graph: {error}.") from error
    if not request.nodes:
        raise CommandError(f'{file.name} is not a graph: it has no nodes, such as {{"nodes": [{{"key": "a", "task": …}}]}}.')
    if request_id:
        request.request_id = request_id
    with connect() as connection:
        stub = stubs.SchedulerServiceStub(connection.channel)
        response = stub.CreateTaskGraph(request, metadata=connection.metadata, timeout=_SECONDS)
    if as_json:
        print_json(response)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for result in response.results:
        table.add_row(escape(result.key), result.task_id)
    out.print(table)


@app.command("cancel")
def cancel_task(task_id: TaskId, cause: Annotated[str, typer.Option(help="Why, for those who read its events.")] = "") -> None:
    """Cancel a task."""
    with connect() as connection:
        stub = stubs.SchedulerServiceStub(connection.channel)
        request = pb.CancelTaskRequest(task_id=task_id, cause=cause)
        task = stub.CancelTask(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(f"{task.task_id} is {task.status}", highlight=False)


@app.command("signal")
def signal_task(
    task_id: TaskId,
    signal: Annotated[str, typer.Argument(help="The name of the signal, such as approval.")],
    value: Annotated[str, typer.Argument(help="Its value as JSON, such as true or '{\"approved\": true}'.")] = "null",
) -> None:
    """Send a task a signal, such as the answer that it waits for."""
    try:
        sent = ParseDict(json.loads(value), Value())
    except ValueError as error:
        raise CommandError(f"The value is not JSON: {error}; a text needs quotes, such as '\"yes\"'.") from error
    with connect() as connection:
        stub = stubs.SchedulerServiceStub(connection.channel)
        request = pb.SignalTaskRequest(task_id=task_id, signal=signal, value=sent)
        task = stub.SignalTask(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(f"{task.task_id} is {task.status}", highlight=False)


@app.command("counts")
def count_tasks(
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="Those of the whole mesh, ended ones included; takes an operator.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count your tenant's tasks that have not ended, by queue and state."""
    with connect() as connection:
        stub = queue_service_pb2_grpc.QueueServiceStub(connection.channel)
        request = queue_service_pb2.CountQueuedTasksRequest(all_tenants=all_tenants)
        found = stub.CountQueuedTasks(request, metadata=connection.metadata, timeout=_SECONDS)
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    states = [status for status in _STATES if status in found.counts]
    for heading in ("queue", *states):
        table.add_column(heading, no_wrap=True, overflow="fold", justify="left" if heading == "queue" else "right")
    for queue in found.queues:
        table.add_row(queue.queue, *(str(queue.counts[status]) for status in states))
    table.add_row("all", *(str(found.counts[status]) for status in states), style="bold")
    out.print(table)


@app.command("watch")
def watch_task(
    task_id: TaskId,
    after: Annotated[int, typer.Option(min=0, help="Only events with a higher number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print each event of a task as it happens, until its end; exit 1 when it failed or was cancelled."""
    with connect() as connection:
        watch_events(connection, task_id, after, as_json=as_json)


def json_object(text: str | bytes, option: str = "--context") -> dict[str, Any]:
    """The object that an option gives; raises CommandError."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f'{option} is not JSON: {error}; give an object such as \'{{"city": "Bonn"}}\'.') from error
    if not isinstance(value, dict):
        raise CommandError(f'{option} must be a JSON object, such as \'{{"city": "Bonn"}}\'.')
    return value


def _labels(given: list[str]) -> dict[str, str]:
    labels = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise CommandError(f"--label takes KEY=VALUE, such as team=red, not {each!r}.")
        labels[name] = value
    return labels
