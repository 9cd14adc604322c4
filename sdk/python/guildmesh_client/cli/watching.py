"""Following a task on the command line, and how its events are printed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from guildmesh.events.v1 import task_event_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as stubs
from rich.markup import escape

from guildmesh_client.cli.connection import Connection
from guildmesh_client.cli.output import STATE_STYLES, out, print_json

T = TypeVar("T")
_RECONNECT_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)


def reopened(open_stream: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What a stream tells, opened again when it breaks; `open_stream` is to go on where it was."""
    failures = 0
    while True:
        try:
            for item in open_stream():
                failures = 0
                yield item
            return
        except grpc.RpcError as error:
            retry = isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE
            if not retry or failures == len(_RECONNECT_SECONDS):
                raise
            time.sleep(_RECONNECT_SECONDS[failures])
            failures += 1


def watch_task(connection: Connection, task_id: str, after: int, *, as_json: bool) -> None:
    """Prints each event of a task as it happens, until its end; exits with 1 when it failed or was cancelled."""
    stub = stubs.SchedulerServiceStub(connection.channel)
    last: task_event_pb2.TaskEvent | None = None

    def opened() -> Iterator[task_event_pb2.TaskEvent]:
        # The number of the last event seen is all that is needed to go on, wherever the stream ended.
        request = pb.WatchTaskRequest(task_id=task_id, after_event_number=after if last is None else last.number)
        return iter(stub.WatchTask(request, metadata=connection.metadata))

    for event in reopened(opened):
        last = event
        print_json(event) if as_json else print_event(event)
    if last is not None and last.WhichOneof("change") in ("failed", "cancelled"):
        raise typer.Exit(1)


def print_event(event: task_event_pb2.TaskEvent, before: str = "") -> None:
    """Prints an event in one line, behind what stands `before` it."""
    change = event.WhichOneof("change") or event.type
    style = STATE_STYLES.get(change, "cyan")
    at = event.event_time.ToDatetime().strftime("%H:%M:%S.%f")[:-3]
    detail = _detail(getattr(event, change)) if event.WhichOneof("change") else ""
    out.print(f"{before}{event.number:>4}  {at}  [{style}]{change}[/]  {escape(detail)}", highlight=False, soft_wrap=True)


def _detail(change: Any) -> str:
    fields = MessageToDict(change, preserving_proto_field_name=True)
    parts = []
    for name, value in fields.items():
        # A prompt may have lines of its own; an event is one.
        text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts.append(f"{name}: {text}")
    line = "  ".join(parts)
    return line if len(line) <= 500 else line[:499] + "…"
