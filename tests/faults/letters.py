"""Dead letters that are replayed and dismissed, and queues that come and go, until each is done; and what is wrong then."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import grpc
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as letters_pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as letters_grpc
from guildmesh.scheduler.v1 import queue_pb2, task_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as queues_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queues_grpc

from services.common.context import Principal
from services.common.grpcx.channel import secure_channel
from tests.faults.calls import until_answered
from tests.faults.cluster import Cluster
from tests.support.due import Query
from tests.support.past import QUEUE, ended_tasks
from tests.support.service import metadata

PLACES = ("scheduler.replay.", "scheduler.dismiss.", "scheduler.delete_queue.")
_LETTERS, _A_CALL = 6, 2
_OPEN = "SELECT count(*) FROM scheduler.dead_letters WHERE tenant_id = %s AND replay_time IS NULL AND dismiss_time IS NULL"
_REPLAYED = (
    "SELECT task_id::text, replay_task_id::text FROM scheduler.dead_letters WHERE tenant_id = %s AND replay_time IS NOT NULL"
)
_SPECS = "SELECT task_id::text, spec FROM scheduler.tasks WHERE tenant_id = %s"


async def provoke(cluster: Cluster, tenant: str, name: str) -> None:
    """Brings about what it takes for the place `name` to be visited, and sees it through."""
    by = metadata(Principal("letters", tenant, frozenset({"admin"})))
    async with secure_channel(cluster.target, "scheduler", cluster.tls / "gateway") as channel:
        if name.startswith("scheduler.delete_queue."):
            await _come_and_go(queues_grpc.QueueServiceStub(channel), by)
            return
        await asyncio.to_thread(
            ended_tasks,
            cluster.servers.database_url,
            _LETTERS,
            tenant,
            days=90,
            ago=timedelta(hours=1),
            partition=False,
            failed=True,
        )
        stub: Any = letters_grpc.DeadLetterServiceStub(channel)
        if name.startswith("scheduler.replay."):
            request = letters_pb.ReplayDeadLettersRequest(queue=QUEUE, limit=_A_CALL)
            while (await until_answered(lambda: stub.ReplayDeadLetters(request, metadata=by, timeout=10))).left:
                pass
        else:
            dismiss = letters_pb.DeleteDeadLettersRequest(queue=QUEUE, filter="replayed = false")
            while (await until_answered(lambda: stub.DeleteDeadLetters(dismiss, metadata=by, timeout=10))).left:
                pass


def wrong_letters(query: Query, tenant: str) -> list[str]:
    """What is wrong with the tenant's dead letters, once all is done; `query` gives the rows of a statement."""
    [(left,)] = query(_OPEN, tenant)
    problems = [f"{left} dead letters are left"] if left else []
    made = {task_id: task_pb2.Task.FromString(bytes(spec)).replay_of for task_id, spec in query(_SPECS, tenant)}
    problems += [f"{task_id} is replayed {number} times" for task_id, number in Counter(made.values()).items() if number > 1]
    replayed = dict(query(_REPLAYED, tenant))
    if {origin: task_id for task_id, origin in made.items()} != replayed:
        problems.append(f"{len(made)} replays are there, and {len(replayed)} are told of")
    return problems


async def _come_and_go(stub: Any, by: Any) -> None:
    name = f"q-{uuid.uuid4().hex[:12]}"
    create = queues_pb.CreateQueueRequest(queue=queue_pb2.Queue(queue=name))
    await until_answered(lambda: stub.CreateQueue(create, metadata=by, timeout=10), grpc.StatusCode.ALREADY_EXISTS)
    delete = queues_pb.DeleteQueueRequest(queue=name)
    await until_answered(lambda: stub.DeleteQueue(delete, metadata=by, timeout=10), grpc.StatusCode.NOT_FOUND)
