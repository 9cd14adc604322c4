"""`guildmesh queues`: the lines that tasks wait in."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from guildmesh.events.v1 import task_event_pb2
from guildmesh.scheduler.v1 import queue_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from guildmesh.scheduler.v1 import queue_service_pb2 as pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as stubs
from rich.table import Table

from guildmesh_client.cli.connection import Connection, connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import out, print_json

app = typer.Typer(help="Queues: list, get, create, update, pause, resume, delete.", no_args_is_help=True)

_SECONDS = 30.0
_KEPT = {"1d": 1, "7d": 7, "30d": 30, "90d": 90, "forever": 0}
_CONTENTS = {
    "plain": task_event_pb2.EVENT_CONTENT_PLAIN,
    "omit": task_event_pb2.EVENT_CONTENT_OMIT,
    "encrypted": task_event_pb2.EVENT_CONTENT_ENCRYPTED,
}
_UNSET = "none"
_LOOK_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 60.0

Name = Annotated[str, typer.Argument(help="The name of the queue.")]
Shared = Annotated[bool, typer.Option("--shared", help="Every tenant's queue of this name; changing it takes an operator.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Priority = Annotated[int | None, typer.Option(min=1, max=10, help="1 to 10: the larger goes first; tasks keep the one of then.")]
MaxRunning = Annotated[str, typer.Option(help="How many tasks may run at once; none for no limit.")]
PerKey = Annotated[str, typer.Option("--max-running-per-key", help="The same for each concurrency key.")]
Rate = Annotated[str, typer.Option(help="How many may start a second, such as 0.5; none for no limit.")]
Burst = Annotated[int | None, typer.Option(min=1, help="How many may start at once after a pause; needs --rate.")]
Attempts = Annotated[str, typer.Option(help="How often a task is started that does not say; none for the default.")]
Keep = Annotated[str, typer.Option(help=f"How long ended tasks are kept: {', '.join(_KEPT)}; none for the default.")]
KeepFailed = Annotated[str, typer.Option("--keep-failed", help="The same for tasks that failed.")]
Weight = Annotated[
    list[str] | None, typer.Option("--weight", help="TENANT=WEIGHT, its share of a shared queue; all are replaced.")
]
Content = Annotated[
    str,
    typer.Option(
        "--event-content",
        help="What of the texts of its tasks is on Kafka: plain, omit (sizes and hashes) or encrypted (with a key of the user);"
        " none for the mesh's default.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it holds for every start: 12 s for the first limit or pause.")]
Etag = Annotated[str, typer.Option(help="Refuse when somebody has changed it since it had this etag.")]


@app.command("list")
def list_queues(as_json: AsJson = False) -> None:
    """List the queues that your tasks may wait in, the highest priority first."""
    with connect() as connection:
        stub = scheduler_service_pb2_grpc.SchedulerServiceStub(connection.channel)
        request = scheduler_service_pb2.ListQueuesRequest()
        found = stub.ListQueues(request, metadata=connection.metadata, timeout=_SECONDS)
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("queue", "priority", "state", "running", "rate", "attempts", "kept", "failed kept", "whose"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for queue in found.queues:
        table.add_row(
            queue.queue,
            str(queue.priority),
            _state(queue),
            str(queue.max_running) if queue.HasField("max_running") else "",
            f"{queue.rate_limit.per_second:g}/s" if queue.HasField("rate_limit") else "",
            str(queue.max_attempts) if queue.HasField("max_attempts") else "",
            _kept(queue.retention_days) if queue.HasField("retention_days") else "",
            _kept(queue.dead_letter_retention_days) if queue.HasField("dead_letter_retention_days") else "",
            "everyone's" if queue.shared else "your tenant's",
        )
    out.print(table)


@app.command("get")
def get_queue(queue: Name, shared: Shared = False) -> None:
    """Show one queue as JSON."""
    with connect() as connection:
        stub = stubs.QueueServiceStub(connection.channel)
        request = pb.GetQueueRequest(queue=queue, shared=shared)
        print_json(stub.GetQueue(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("create")
def create_queue(
    queue: Name,
    priority: Priority = None,
    max_running: MaxRunning = "",
    per_key: PerKey = "",
    rate: Rate = "",
    burst: Burst = None,
    attempts: Attempts = "",
    keep: Keep = "",
    keep_failed: KeepFailed = "",
    weight: Weight = None,
    content: Content = "",
    shared: Shared = False,
) -> None:
    """Create a queue of your tenant, or of every tenant."""
    message, _ = _queue(queue, priority, max_running, per_key, rate, burst, attempts, keep, keep_failed, weight, content)
    with connect() as connection:
        stub = stubs.QueueServiceStub(connection.channel)
        request = pb.CreateQueueRequest(queue=message, shared=shared)
        stub.CreateQueue(request, metadata=connection.metadata, timeout=_SECONDS)
    _tell(f"{queue} is created")


@app.command("update")
def update_queue(
    queue: Name,
    priority: Priority = None,
    max_running: MaxRunning = "",
    per_key: PerKey = "",
    rate: Rate = "",
    burst: Burst = None,
    attempts: Attempts = "",
    keep: Keep = "",
    keep_failed: KeepFailed = "",
    weight: Weight = None,
    content: Content = "",
    shared: Shared = False,
    etag: Etag = "",
    wait: Wait = False,
) -> None:
    """Change what is given, and leave the rest; `none` takes a limit or a default away."""
    message, paths = _queue(queue, priority, max_running, per_key, rate, burst, attempts, keep, keep_failed, weight, content)
    if not paths:
        raise CommandError("There is nothing to change; see `guildmesh queues update --help`.")
    message.etag = etag
    with connect() as connection:
        stub = stubs.QueueServiceStub(connection.channel)
        request = pb.UpdateQueueRequest(queue=message, update_mask=FieldMask(paths=paths), shared=shared)
        changed = stub.UpdateQueue(request, metadata=connection.metadata, timeout=_SECONDS)
        print_json(_in_force(connection, changed) if wait else changed)


@app.command("pause")
def pause_queue(queue: Name, shared: Shared = False, wait: Wait = False) -> None:
    """Keep the tasks of a queue from starting; those that run go on."""
    with connect() as connection:
        stub = stubs.QueueServiceStub(connection.channel)
        request = pb.PauseQueueRequest(queue=queue, shared=shared)
        paused = stub.PauseQueue(request, metadata=connection.metadata, timeout=_SECONDS)
        if wait:
            paused = _in_force(connection, paused)
    if not paused.paused:
        raise CommandError(f"{queue} was resumed by somebody meanwhile.")
    _tell(
        f"{queue} is paused" if paused.limits_in_force else f"{queue} is paused; tasks may still start for at most 12 s (--wait)"
    )


@app.command("resume")
def resume_queue(queue: Name, shared: Shared = False) -> None:
    """Have the tasks of a paused queue start again."""
    with connect() as connection:
        stub = stubs.QueueServiceStub(connection.channel)
        stub.ResumeQueue(pb.ResumeQueueRequest(queue=queue, shared=shared), metadata=connection.metadata, timeout=_SECONDS)
    _tell(f"{queue} is open")


@app.command("delete")
def delete_queue(queue: Name, shared: Shared = False, etag: Etag = "") -> None:
    """Delete a queue that has no tasks but ended ones."""
    with connect() as connection:
        stub = stubs.QueueServiceStub(connection.channel)
        request = pb.DeleteQueueRequest(queue=queue, shared=shared, etag=etag)
        stub.DeleteQueue(request, metadata=connection.metadata, timeout=_SECONDS)
    _tell(f"{queue} is deleted")


def _in_force(connection: Connection, queue: queue_pb2.Queue) -> queue_pb2.Queue:
    """The queue once its limits hold for every start."""
    stub = stubs.QueueServiceStub(connection.channel)
    request = pb.GetQueueRequest(queue=queue.queue, shared=queue.shared)
    end = time.monotonic() + _LONGEST_WAIT_SECONDS
    while not queue.limits_in_force:
        if time.monotonic() > end:
            raise CommandError(
                f"{queue.queue} is changed, but after {_LONGEST_WAIT_SECONDS:g} s tasks may still start past its limits: no"
                " scheduler decides. See `guildmesh status`."
            )
        time.sleep(_LOOK_SECONDS)
        queue = stub.GetQueue(request, metadata=connection.metadata, timeout=_SECONDS)
    return queue


def _state(queue: queue_pb2.Queue) -> str:
    """Whether its tasks start, and whether that is so for all by now."""
    if queue.paused:
        return "[yellow]paused[/]" if queue.limits_in_force else "[yellow]pausing[/]"
    return "open" if queue.limits_in_force else "[yellow]limiting[/]"


def _queue(
    name: str,
    priority: int | None,
    max_running: str,
    per_key: str,
    rate: str,
    burst: int | None,
    attempts: str,
    keep: str,
    keep_failed: str,
    weights: list[str] | None,
    content: str,
) -> tuple[queue_pb2.Queue, list[str]]:
    """The queue with what is given, and the names of these fields."""
    queue = queue_pb2.Queue(queue=name)
    paths = []
    if priority is not None:
        queue.priority = priority
        paths.append("priority")
    numbers = (
        ("--max-running", "max_running", max_running),
        ("--max-running-per-key", "max_running_per_key", per_key),
        ("--attempts", "max_attempts", attempts),
    )
    for option, field, text in numbers:
        if text:
            paths.append(field)
            if text != _UNSET:
                setattr(queue, field, _whole(option, text))
    if burst is not None and rate in ("", _UNSET):
        raise CommandError("--burst needs --rate: they are one limit.")
    if rate:
        paths.append("rate_limit")
        if rate != _UNSET:
            queue.rate_limit.per_second = _decimal("--rate", rate)
            if burst is not None:
                queue.rate_limit.burst = burst
    for option, field, text in (("--keep", "retention_days", keep), ("--keep-failed", "dead_letter_retention_days", keep_failed)):
        if text:
            paths.append(field)
            if text != _UNSET:
                if text not in _KEPT:
                    raise CommandError(f"{option} cannot be {text!r}; it is one of {', '.join(_KEPT)}, or {_UNSET}.")
                setattr(queue, field, _KEPT[text])
    if content:
        paths.append("event_content")
        if content != _UNSET:
            if content not in _CONTENTS:
                raise CommandError(f"--event-content cannot be {content!r}; it is one of {', '.join(_CONTENTS)}, or {_UNSET}.")
            queue.event_content = _CONTENTS[content]
    if weights is not None:
        paths.append("tenant_weights")
        for text in weights:
            tenant, sign, weight = text.partition("=")
            if text == _UNSET:
                continue
            if not tenant or not sign:
                raise CommandError(f"--weight must be TENANT=WEIGHT, such as acme=2, or {_UNSET}, not {text!r}.")
            queue.tenant_weights[tenant] = _decimal("--weight", weight)
    return queue, paths


def _whole(option: str, text: str) -> int:
    # Longer ones are out of every range, and some of the contract's integers.
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise CommandError(f"{option} must be a whole number, or {_UNSET}, not {text!r}.")
    return int(text)


def _decimal(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CommandError(f"{option} must be a number such as 0.5, not {text!r}.") from None


def _kept(days: int) -> str:
    return f"{days}d" if days else "forever"


def _tell(text: str) -> None:
    out.print(text, highlight=False, markup=False)
