"""Webhook processes beside a cluster, and a receiver that keeps what it is sent; and what is wrong with that in the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from guildmesh.scheduler.v1 import webhook_pb2
from guildmesh.scheduler.v1 import webhook_service_pb2 as pb
from guildmesh.scheduler.v1 import webhook_service_pb2_grpc as pb_grpc
from guildmesh_client.webhooks import event_of as received
from guildmesh_client.webhooks import verify

from services.common.context import Principal
from tests.faults.calls import UNKNOWN, until_answered
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.events import event_of
from tests.faults.evidence import Event
from tests.support.receiver import OK, Answer, Receiver, Request, receiving
from tests.support.service import metadata

PLACES = ("webhooks.",)
_WEBHOOK = "all"
_REFUSED: Answer = (503, {}, b"")
_ONE_IN = 5
_PROCESSES = 2


@dataclass
class Hook:
    """A tenant's webhook, and what its receiver has."""

    receiver: Receiver
    secret: str

    async def wrong(self, kept: Sequence[Event], seconds: float) -> list[str]:
        """What is wrong with what came, once it is as much as is `kept`, or after `seconds`."""
        wanted: dict[str, dict[int, str]] = defaultdict(dict)
        for event in kept:
            wanted[event.task_id][event.number] = event.digest
        ids = {f"{event.task_id}/{event.number}" for event in kept}
        try:
            await self.receiver.until(lambda: ids <= self.receiver.ids, seconds)
        except TimeoutError:
            missing = sorted(ids - self.receiver.ids)
            return [f"a receiver lacks {len(missing)} events of {len(ids)}, such as {missing[0]}"]
        return [*self._out_of_order(wanted), *self._others(wanted)]

    def _out_of_order(self, wanted: Mapping[str, Mapping[int, str]]) -> list[str]:
        return [
            f"a receiver has events of {task_id} in the order {numbers}"
            for task_id, numbers in self.receiver.numbers().items()
            if numbers != sorted(wanted.get(task_id, ()))
        ]

    def _others(self, wanted: Mapping[str, Mapping[int, str]]) -> list[str]:
        """Those that are not what the table has; repeats are as the first."""
        problems = []
        for request in self.receiver.taken:
            verify(self.secret, request.headers, request.body)
            event = event_of(received(request.body))
            if event.digest != wanted.get(event.task_id, {}).get(event.number):
                problems.append(f"a receiver has another event {request.id} than the table")
        return problems


@asynccontextmanager
async def hooked(cluster: Cluster, client: Client) -> AsyncIterator[Hook]:
    """Two webhook processes that send all events of a client's tenant to a receiver, which refuses some of them once."""
    stub: Any = pb_grpc.WebhookServiceStub(client.channel)
    by = metadata(Principal("hooks", client.tenant, frozenset({"admin"})))
    delete = pb.DeleteWebhookRequest(webhook_id=_WEBHOOK)

    async def gone() -> None:
        await until_answered(lambda: stub.DeleteWebhook(delete, metadata=by, timeout=10), grpc.StatusCode.NOT_FOUND)

    async with receiving(answer=_refusing_some()) as receiver:
        create = pb.CreateWebhookRequest(webhook=webhook_pb2.Webhook(webhook_id=_WEBHOOK, url=receiver.url))
        # Its secret is told once: one whose creation was not answered is of no use.
        while (made := await _created(stub.CreateWebhook(create, metadata=by, timeout=10))) is None:
            await gone()
        environments = [_environment(cluster, index) for index in range(_PROCESSES)]
        async with cluster.more("webhooks", "services.scheduler.webhooks", environments):
            yield Hook(receiver, made.secret)
        await gone()


def _environment(cluster: Cluster, index: int) -> dict[str, str]:
    own = {
        "GUILDMESH_TLS_DIR": str(cluster.tls / "scheduler"),
        "GUILDMESH_WEBHOOK_LEASE_SECONDS": str(cluster.shape.relay_lease_seconds),
        "GUILDMESH_WEBHOOK_POLL_SECONDS": "0.2",
        "GUILDMESH_WEBHOOK_RETRY_SECONDS": "0.1",
        "GUILDMESH_WEBHOOK_LONGEST_CLOSED_SECONDS": "0.5",
    }
    return own | cluster.topics() | cluster.common(f"webhooks-{index}", 300 + index)


async def _created(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() not in (*UNKNOWN, grpc.StatusCode.ALREADY_EXISTS):
            raise
        return None


def _refusing_some() -> Callable[[Request], Answer]:
    """Takes one event in so many only when it comes again."""
    refused: set[str] = set()

    def answer(request: Request) -> Answer:
        if request.number % _ONE_IN or request.id in refused:
            return OK
        refused.add(request.id)
        return _REFUSED

    return answer
