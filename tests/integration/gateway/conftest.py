"""A real Envoy with the configuration of the product, before echo servers with the mesh's certificates."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest

from services.embedded.errors import NotReady
from services.embedded.gateway_config import GatewayConfig
from services.embedded.parts.envoy import Envoy
from services.embedded.parts.part import Launch, Part
from services.embedded.ports import free_ports
from services.embedded.running import RunningPart
from tests.support.servers import server_folder
from tests.support.service import mesh_certificates

ROOT = Path(__file__).resolve().parents[3]
SECRET = "a shared secret of the tests, longer than sixty-four bytes, as HS512 wants it"
ECHOING = ("identity", "scheduler", "monitor")
SILENT = ("agent", "tool", "memory")


class Echo(Part):
    """The echo servers of some services, in one process."""

    name = "echo"
    start_seconds = 20.0

    def __init__(self, tls: Path, ports: dict[str, int]) -> None:
        self._tls = tls
        self._ports = ports

    def launch(self) -> Launch:
        ports = [f"{name}={port}" for name, port in self._ports.items()]
        arguments = (sys.executable, "-m", "tests.integration.gateway.echo", str(self._tls), *ports)
        return Launch(arguments, folder=ROOT)

    def check(self) -> None:
        for port in self._ports.values():
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError as error:
                raise NotReady(str(error)) from error


def token(secret: str = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token as identity makes it, with the claims changed; a claim of None is left out."""
    now = int(time.time())
    values = {"iss": "guildmesh", "aud": "guildmesh", "sub": "ada", "tenant": "acme", "roles": ["user"], "exp": now + 600}
    kept = {name: value for name, value in (values | claims).items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm, headers=headers)


@dataclass
class Gateway:
    """Where it listens, and what is behind it."""

    config: GatewayConfig
    echo: RunningPart
    tls: Path

    @property
    def port(self) -> int:
        return self.config.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rest(self, *, anonymous: bool = False, **options: Any) -> httpx.Client:
        headers = {} if anonymous else {"authorization": f"Bearer {token()}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}")


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    with server_folder("gateway") as folder:
        tls = mesh_certificates(folder / "tls")
        ports = free_ports(len(ECHOING) + len(SILENT) + 2)
        targets = dict(zip((*ECHOING, *SILENT), ports, strict=False))
        config = GatewayConfig(
            upstreams={name: f"127.0.0.1:{port}" for name, port in targets.items()},
            tls_dir=tls / "gateway",
            admin_address="",
            identity_admin=f"127.0.0.1:{ports[-2]}",
            jwt_secret_key=SECRET,
            host="127.0.0.1",
            port=ports[-1],
            cors_origins=["https://app.example"],
        )
        echo = RunningPart(Echo(tls, {name: targets[name] for name in ECHOING}), folder / "echo.log")
        envoy = RunningPart(Envoy(folder / "envoy", config), folder / "envoy.log")
        try:
            echo.start()
            envoy.start()
            yield Gateway(config, echo, tls)
        finally:
            envoy.stop()
            echo.stop()


@pytest.fixture
def rest(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.rest() as client:
        yield client


@pytest.fixture
def anonymous(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.rest(anonymous=True) as client:
        yield client


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with gateway.channel() as channel:
        yield channel


def error(response: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """Checks that a response is an error as the design says, and gives its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    body: dict[str, Any] = response.json()
    assert set(body) == {"code", "message", "details"}
    assert body["message"]
    infos = [item for item in body["details"] if item["@type"].endswith("/google.rpc.ErrorInfo")]
    assert [info["reason"] for info in infos] == [reason]
    assert len(response.headers["x-trace-id"]) == 32
    return body
