"""Calls that a run makes of the scheduler: what it needs and has no room in the lease, and what has none in its report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc

from guildmesh_client.payloads import download_json, upload_json
from guildmesh_client.worker.errors import ResultOmitted
from guildmesh_client.worker.json_values import JsonValue, from_value

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[grpc.aio.Channel, tuple[tuple[str, str], ...]]]]
"""gives a channel and metadata for a call; raises ConnectionError when there is none."""

_READ_SECONDS = 10.0


class Calls:
    """The calls, by the connection on which the worker tells everything."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def read_result(self, task_id: str) -> JsonValue:
        """The result of a task that completed, read from the scheduler.

        Raises:
            ResultOmitted: there is none to be read.
            ConnectionError, grpc.aio.AioRpcError: the scheduler cannot be reached.
        """
        async with self._connect() as (channel, metadata):
            stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
            try:
                task = await stub.GetTask(pb.GetTaskRequest(task_id=task_id), metadata=metadata, timeout=_READ_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED):
                    raise ResultOmitted(task_id) from error
                raise
        if task.result_payload:
            return await self.download(task.result_payload)
        if not task.HasField("result"):
            raise ResultOmitted(task_id)
        return from_value(task.result)

    async def upload(self, value: JsonValue) -> str:
        """Uploads a value as a payload."""
        async with self._connect() as (channel, metadata):
            return await upload_json(channel, value, metadata)

    async def download(self, payload_id: str) -> JsonValue:
        """The JSON value that is a payload."""
        async with self._connect() as (channel, metadata):
            found: JsonValue = await download_json(channel, payload_id, metadata)
        return found
