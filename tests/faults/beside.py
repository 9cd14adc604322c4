"""What others add to the log of a task: a tool service that has run something for it, and subtasks."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import grpc
from guildmesh.events.v1.task_event_pb2 import TaskToolCalled, TaskToolReturned
from guildmesh.events.v1.tool_usage_pb2 import TOOL_OUTCOME_SUCCEEDED
from guildmesh.scheduler.v1 import event_log_service_pb2 as pb
from guildmesh.scheduler.v1 import event_log_service_pb2_grpc as pb_grpc

from services.common.grpcx.channel import secure_channel
from tests.faults.client import CHILD, NOBODY, Client
from tests.faults.cluster import Cluster, target_of
from tests.faults.history import FAIL, INFO, OK

APPEND, PARENTS = "scheduler.append.", "scheduler.tell_parents."
PLACES = (APPEND, PARENTS)
_CHILDREN = 8
_RUN_SECONDS = 0.3


async def provoke(cluster: Cluster, client: Client, name: str, turn: int, tags: Sequence[str]) -> None:
    """Brings the place `name` about: events of a tool for the tasks of `tags`, or subtasks that come and end."""
    if name.startswith(APPEND):
        async with (
            secure_channel(target_of(cluster.ports), "scheduler", cluster.tls / "tool") as channel,
            asyncio.TaskGroup() as group,
        ):
            for tag in tags:
                group.create_task(_call_tools(client, channel, tag))
        return
    parent = f"{client.tenant}-{turn}-parent"
    await client.submit({parent: NOBODY})
    parent_id = client.task_ids[parent]
    await client.submit({f"{parent}-{number}": f"{CHILD}{parent_id}" for number in range(_CHILDREN)})
    # Some have ended by then, and the others end with it.
    await asyncio.sleep(_RUN_SECONDS)
    await client.cancel(parent_id)


async def _call_tools(client: Client, channel: grpc.aio.Channel, tag: str) -> None:
    while tag not in client.task_ids:  # noqa: ASYNC110 - whoever creates it does not say so
        await asyncio.sleep(0.02)
    task_id = client.task_ids[tag]
    await client.until_started(task_id)
    stub: Any = pb_grpc.EventLogServiceStub(channel)
    for _ in range(3):
        run = str(uuid.uuid4())
        head: dict[str, Any] = {"tenant_id": client.tenant, "task_id": task_id, "attempt": 1, "actor": "client"}
        called, returned = (
            TaskToolCalled(execution_id=run, run=1),
            TaskToolReturned(execution_id=run, run=1, outcome=TOOL_OUTCOME_SUCCEEDED),
        )
        await _append(client, stub, pb.AppendedEvent(**head, source_id=f"{run}/called", tool_called=called))
        await _append(
            client, stub, pb.AppendedEvent(**head, source_id=f"{run}/returned", follows=f"{run}/called", tool_returned=returned)
        )


async def _append(client: Client, stub: Any, event: pb.AppendedEvent) -> None:
    """Tells an event until it is answered, with the same id."""
    change = event.WhichOneof("change") or ""
    run = f"{getattr(event, change).execution_id}/1"
    while True:
        number = client.recorder.invoke("append", task_id=event.task_id, change=change, run=run)
        try:
            response = await stub.AppendEvents(pb.AppendEventsRequest(events=[event]), timeout=client.call_seconds)
        except grpc.aio.AioRpcError as error:
            client.recorder.outcome(number, INFO, code=error.code().name)
            if not client.unknown(error):
                client.surprised(f"an event of a tool was refused: {error.details()}")
                return
            await asyncio.sleep(0.1)
            continue
        client.recorder.outcome(number, OK if response.answers[0].number else FAIL, reason=response.answers[0].reason)
        return
