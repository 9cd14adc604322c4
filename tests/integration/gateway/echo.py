"""Servers behind the gateway that answer what arrived: `python -m tests.integration.gateway.echo TLS_DIR SERVICE=PORT ...`.

They have the chain of interceptors and the certificates of the real services, in a process of their own that can be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from google.api import httpbody_pb2
from guildmesh.events.v1 import task_event_pb2
from guildmesh.identity.v1 import identity_service_pb2 as identity_pb
from guildmesh.identity.v1 import identity_service_pb2_grpc as identity_grpc
from guildmesh.monitor.v1 import monitor_service_pb2 as monitor_pb
from guildmesh.monitor.v1 import monitor_service_pb2_grpc as monitor_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh.scheduler.v1 import worker_service_pb2_grpc as worker_grpc

from services.common.context import current_call
from services.common.errors import NotFound, ResourceExhausted, Unauthenticated
from services.common.grpcx.server import Registration, build_server, server_credentials


class TaskNotFound(NotFound):
    reason = "TASK_NOT_FOUND"
    domain = "scheduler.guildmesh.dev"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"No task {task_id!r}; list your tasks with GET /v1/tasks.", task_id=task_id)


class TooManyTasks(ResourceExhausted):
    reason = "TOO_MANY_TASKS"
    domain = "scheduler.guildmesh.dev"
    retry_after = 6.2


class WrongPassword(Unauthenticated):
    reason = "INVALID_CREDENTIALS"
    domain = "identity.guildmesh.dev"


class Scheduler(scheduler_grpc.SchedulerServiceServicer, worker_grpc.WorkerServiceServicer):
    """`description` tells who called, `labels` hold the metadata that arrived."""

    async def SubmitTask(self, request: scheduler_pb.SubmitTaskRequest, context: Any) -> scheduler_pb.SubmitTaskResponse:
        return scheduler_pb.SubmitTaskResponse(task_id=request.task, status=str(request.priority))

    async def CreateTask(self, request: scheduler_pb.CreateTaskRequest, context: Any) -> task_pb2.Task:
        return request.task

    async def GetTask(self, request: scheduler_pb.GetTaskRequest, context: Any) -> task_pb2.Task:
        if request.task_id.startswith("unknown"):
            raise TaskNotFound(request.task_id)
        call = current_call()
        labels = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        principal = call.principal
        return task_pb2.Task(task_id=request.task_id, tenant_id=principal.tenant_id, created_by=principal.subject, labels=labels)

    async def ListTasks(self, request: scheduler_pb.ListTasksRequest, context: Any) -> scheduler_pb.ListTasksResponse:
        raise TooManyTasks("Too many tasks; wait.")

    async def WatchTask(self, request: scheduler_pb.WatchTaskRequest, context: Any) -> AsyncIterator[task_event_pb2.TaskEvent]:
        for number in range(request.after_event_number + 1, 4):
            yield task_event_pb2.TaskEvent(task_id=request.task_id, number=number)
            if request.task_id == "endless":
                await asyncio.Event().wait()

    async def StreamTaskEvents(
        self, request: scheduler_pb.StreamTaskEventsRequest, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        if request.task_id == "metadata":
            arrived = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            yield httpbody_pb2.HttpBody(content_type="text/event-stream", data=json.dumps(arrived).encode())
            return
        yield httpbody_pb2.HttpBody(content_type="text/event-stream", data=f"id: 1\ndata: {request.last_event_id}\n\n".encode())
        if request.task_id == "endless":
            await asyncio.Event().wait()
        yield httpbody_pb2.HttpBody(content_type="text/event-stream", data=b"event: end\ndata: {}\n\n")

    async def Work(self, requests: AsyncIterator[worker_pb.WorkRequest], context: Any) -> AsyncIterator[worker_pb.WorkResponse]:
        async for request in requests:
            yield worker_pb.WorkResponse(acks=[worker_pb.TaskAck(task_id=str(request.credits))])


class Identity(identity_grpc.IdentityServiceServicer):
    async def IssueToken(self, request: identity_pb.IssueTokenRequest, context: Any) -> identity_pb.IssueTokenResponse:
        if request.password == "wrong":
            raise WrongPassword("The username or the password is wrong.")
        return identity_pb.IssueTokenResponse(access_token=f"{request.username}\n{request.password}", token_type="bearer")


class Monitor(monitor_grpc.MonitorServiceServicer):
    async def GetHealth(self, request: monitor_pb.GetHealthRequest, context: Any) -> monitor_pb.GetHealthResponse:
        return monitor_pb.GetHealthResponse(status="healthy")


SERVICES = {
    "identity": [
        Registration(identity_grpc.add_IdentityServiceServicer_to_server, Identity(), "guildmesh.identity.v1.IdentityService")
    ],
    "scheduler": [
        Registration(
            scheduler_grpc.add_SchedulerServiceServicer_to_server, Scheduler(), "guildmesh.scheduler.v1.SchedulerService"
        ),
        Registration(worker_grpc.add_WorkerServiceServicer_to_server, Scheduler(), "guildmesh.scheduler.v1.WorkerService"),
    ],
    "monitor": [
        Registration(monitor_grpc.add_MonitorServiceServicer_to_server, Monitor(), "guildmesh.monitor.v1.MonitorService")
    ],
}


async def serve(tls: Path, ports: dict[str, int]) -> None:
    servers = []
    for name, port in ports.items():
        server, _ = build_server(SERVICES[name])
        server.add_secure_port(f"127.0.0.1:{port}", server_credentials(tls / name))
        await server.start()
        servers.append(server)
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), {name: int(port) for name, port in (each.split("=") for each in sys.argv[2:])}))
