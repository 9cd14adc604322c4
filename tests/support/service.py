"""A service in this process, with real mutual TLS, and channels to it as any of the mesh's services."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc

from services.common.certificates import issue_mesh_certificates
from services.common.context import Principal
from services.common.grpcx.channel import secure_channel
from services.common.grpcx.principal import CLAIMS_KEY, PRINCIPAL_KEY, encode_principal
from services.common.service import RunningService, Service
from services.common.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)
MESH = ("identity", "scheduler", "agent", "tool", "memory", "monitor", "gateway", "operator")
ADA = Principal("ada", "acme", frozenset({"user"}))
BOB = Principal("bob", "globex", frozenset({"user"}))


class TestServer:
    """A running service and ways to call it."""

    __test__ = False

    def __init__(self, running: RunningService, name: str, tls: Path) -> None:
        self.running = running
        self.name = name
        self.tls = tls
        self.target = f"localhost:{running.port}"
        self._channels: list[grpc.aio.Channel] = []

    def channel(self, as_: str = "gateway") -> grpc.aio.Channel:
        """A channel with the certificate of the service `as_`; closed at the end."""
        channel = secure_channel(self.target, self.name, self.tls / as_)
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            await channel.close()


def metadata(
    principal: Principal, *, via: str = "gateway", expires_in: float | None = None, task: str = ""
) -> tuple[tuple[str, str], ...]:
    """The metadata by which the gateway (or a service) hands a principal on, with a token that ends in `expires_in` seconds.

    With `task` the principal came by the ticket of that task.
    """
    if via != "gateway":
        return ((PRINCIPAL_KEY, encode_principal(principal)),)
    claims: dict[str, object] = {"sub": principal.subject, "tenant": principal.tenant_id, "roles": sorted(principal.roles)}
    if expires_in is not None:
        claims["exp"] = time.time() + expires_in
    if task:
        claims["task"] = task
    return ((CLAIMS_KEY, base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()),)


@asynccontextmanager
async def running(
    open_service: Callable[[S], AbstractAsyncContextManager[Service]], settings: S, tls: Path
) -> AsyncIterator[TestServer]:
    """Runs a service. `tls` is a folder made by `mesh_certificates`; `settings.tls_dir` must be one of its service folders."""
    async with open_service(settings) as service:
        server = RunningService(service, settings)
        await server.start()
        test_server = TestServer(server, service.name, tls)
        try:
            yield test_server
        finally:
            await test_server.close()
            await server.stop()


def mesh_certificates(folder: Path) -> Path:
    """Certificates of all services below `folder`."""
    issue_mesh_certificates(folder, MESH)
    return folder
