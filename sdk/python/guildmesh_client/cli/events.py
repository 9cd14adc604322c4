"""`guildmesh events`: the events of one task, or of all that meet a filter, as they happen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as stubs

from guildmesh_client.cli.connection import Connection, connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import print_json
from guildmesh_client.cli.times import seconds_of
from guildmesh_client.cli.watching import print_event, reopened, watch_task

app = typer.Typer(help="Events: watch those of a task, or of all tasks.", no_args_is_help=True)


@app.command("watch")
def watch(
    task_id: Annotated[str, typer.Argument(help="The id of a task; all tasks without it.", show_default=False)] = "",
    filter_: Annotated[
        str,
        typer.Option("--filter", help="Of all tasks: only events that meet it, such as 'type = failed AND queue = research'."),
    ] = "",
    first: Annotated[int, typer.Option("--from", min=1, help="Of one task: the number of the first event.")] = 1,
    since: Annotated[str, typer.Option(help="Of all tasks: how long ago to begin, such as 10m or 2h, at most a week.")] = "",
    resume: Annotated[str, typer.Option(help="Of all tasks: the resume_token behind which to go on (see --json).")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, of all tasks with resume tokens.")] = False,
) -> None:
    """Print events as they happen: of one task until its end, of all tasks until you stop it."""
    if task_id and (filter_ or since or resume):
        raise CommandError("--filter, --since and --resume are for all tasks; leave the id of the task out.")
    if not task_id and first != 1:
        raise CommandError("--from is for one task; give its id, or --since or --resume for all tasks.")
    if since and resume:
        raise CommandError("Give --since or --resume, not both.")
    ago = seconds_of(since, "--since") if since else None
    with connect() as connection:
        if task_id:
            watch_task(connection, task_id, first - 1, as_json=as_json)
        else:
            _watch_all(connection, filter_, resume, ago, as_json=as_json)


def _watch_all(connection: Connection, wanted: str, token: str, ago: float | None, *, as_json: bool) -> None:
    stub = stubs.SchedulerServiceStub(connection.channel)
    start = None if ago is None else datetime.now(UTC) - timedelta(seconds=ago)

    def opened() -> Iterator[pb.WatchTasksResponse]:
        request = pb.WatchTasksRequest(filter=wanted, resume_token=token)
        if start is not None and not token:
            request.start_time.FromDatetime(start)
        return iter(stub.WatchTasks(request, metadata=connection.metadata))

    for response in reopened(opened):
        token = response.resume_token
        if not response.HasField("event"):
            continue
        print_json(response) if as_json else print_event(response.event, f"{response.event.task_id}  ")
