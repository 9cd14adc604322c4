"""`guildmesh dead-letters`: tasks that failed, to be looked at and replayed."""

from __future__ import annotations

from typing import Annotated

import typer
from guildmesh.scheduler.v1 import dead_letter_pb2
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as stubs
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as tasks_stubs
from rich.table import Table

from guildmesh_client.cli.connection import connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import err, out, print_json

app = typer.Typer(help="Dead letters, which are tasks that failed: list, show, replay, delete.", no_args_is_help=True)

_SECONDS = 60.0
_MOST_REPLAYS = 1000

Queue = Annotated[str, typer.Option("--queue", "-q", help="The queue that they failed in.")]
Filter = Annotated[
    str, typer.Option("--filter", help="Only those that meet it, such as 'reason = TIMEOUT AND replayed = false' (AIP-160).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_dead_letters(
    queue: Queue = "default",
    filter_: Filter = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the tasks of a queue that failed, the latest first."""
    found: list[dead_letter_pb2.DeadLetter] = []
    page_token = ""
    with connect() as connection:
        stub = stubs.DeadLetterServiceStub(connection.channel)
        while len(found) < limit:
            request = pb.ListDeadLettersRequest(
                queue=queue, filter=filter_, page_size=min(limit - len(found), 200), page_token=page_token
            )
            response = stub.ListDeadLetters(request, metadata=connection.metadata, timeout=_SECONDS)
            found += response.dead_letters
            page_token = response.next_page_token
            if not page_token:
                break
    if as_json:
        print_json(pb.ListDeadLettersResponse(dead_letters=found, next_page_token=page_token))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("task", "reason", "attempts", "failed (UTC)", "kind", "replayed as"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for letter in found:
        failed = letter.fail_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(letter.task_id, letter.reason, str(letter.attempts), failed, letter.kind, letter.replay_task_id)
    out.print(table)
    if not found:
        err.print("no dead letters", style="dim")


@app.command("show")
def show_dead_letter(task_id: Annotated[str, typer.Argument(help="The id of the task that failed.")]) -> None:
    """Show a task that failed as JSON, with its error and context, and say what it was replayed as."""
    with connect() as connection:
        stub = stubs.DeadLetterServiceStub(connection.channel)
        request = pb.GetDeadLetterRequest(task_id=task_id)
        letter = stub.GetDeadLetter(request, metadata=connection.metadata, timeout=_SECONDS)
        tasks = tasks_stubs.SchedulerServiceStub(connection.channel)
        print_json(tasks.GetTask(tasks_pb.GetTaskRequest(task_id=task_id), metadata=connection.metadata, timeout=_SECONDS))
    told = f"replayed as {letter.replay_task_id}" if letter.replay_task_id else "not replayed"
    err.print(told, style="dim", highlight=False)


@app.command("replay")
def replay(
    task_id: Annotated[str, typer.Argument(help="The id of one task that failed; none for those of a queue.")] = "",
    queue: Annotated[str, typer.Option("--queue", "-q", help="All of this queue that had failed and were not replayed.")] = "",
    filter_: Filter = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many at most; 0 for all.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Replay one once more that was.")] = False,
    request_id: Annotated[str, typer.Option(help="With --again: sent again with the same id, it happens once.")] = "",
) -> None:
    """Create a task like each that failed and print its id; stopped and started again, it replays none twice."""
    if bool(task_id) == bool(queue):
        raise CommandError("Give the id of one task, or --queue for those of a queue.")
    if task_id and (filter_ or limit):
        raise CommandError("--filter and --limit go with --queue.")
    if queue and (again or request_id):
        raise CommandError("--again and --request-id go with the id of one task.")
    replayed = 0
    with connect() as connection:
        stub = stubs.DeadLetterServiceStub(connection.channel)
        if task_id:
            request = pb.ReplayTaskRequest(task_id=task_id, again=again, request_id=request_id)
            task = stub.ReplayTask(request, metadata=connection.metadata, timeout=_SECONDS)
            out.print(task.task_id, highlight=False)
            return
        many = pb.ReplayDeadLettersRequest(queue=queue, filter=filter_)
        while True:
            many.limit = min(limit - replayed, _MOST_REPLAYS) if limit else _MOST_REPLAYS
            done = stub.ReplayDeadLetters(many, metadata=connection.metadata, timeout=_SECONDS)
            for one in done.replays:
                out.print(one.replay_task_id, highlight=False)
            replayed += len(done.replays)
            # What fails anew meanwhile is not meant.
            many.failed_before.CopyFrom(done.failed_before)
            # Whoever replays the same at once may leave nothing for this call.
            if not done.left or not done.replays or replayed == limit > 0:
                break
    err.print(f"{replayed} replayed, {done.left} left", style="dim", highlight=False)


@app.command("delete")
def delete_dead_letters(queue: Queue, filter_: Filter = "") -> None:
    """Dismiss dead letters: they are not listed any more; their tasks stay as long as they are kept."""
    deleted = 0
    with connect() as connection:
        stub = stubs.DeadLetterServiceStub(connection.channel)
        while True:
            request = pb.DeleteDeadLettersRequest(queue=queue, filter=filter_)
            done = stub.DeleteDeadLetters(request, metadata=connection.metadata, timeout=_SECONDS)
            deleted += done.deleted
            if not done.left or not done.deleted:
                break
    out.print(f"{deleted} dismissed", highlight=False)
