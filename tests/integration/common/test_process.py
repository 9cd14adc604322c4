"""A service process as its supervisor sees it: probes, drain, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from services.common.admin import AdminServer
from services.common.errors import DependencyUnavailable
from services.common.service import RunningService, Service
from services.common.settings import ServiceSettings
from tests.support.service import mesh_certificates, running

PROGRAM = """
import asyncio
from contextlib import asynccontextmanager
from services.common.service import Service, run
from services.common.settings import ServiceSettings

async def work():
    if {fails}:
        raise RuntimeError("broken")
    await asyncio.Event().wait()

@asynccontextmanager
async def open_service(settings):
    yield Service("probe", background=[work], serves_grpc=False)
    print("closed", flush=True)

run("probe", ServiceSettings, open_service)
"""


async def get(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_ready_is_503_and_names_what_is_down_and_200_again_when_it_is_back() -> None:
    down = True

    async def check() -> None:
        if down:
            raise DependencyUnavailable("database")

    admin = AdminServer({"database": check})
    port = await admin.start("127.0.0.1", 0)
    try:
        first = await get(port, "/ready")
        down = False
        second = await get(port, "/ready")
        health = await get(port, "/health")
    finally:
        await admin.stop()
    assert (first.status_code, list(first.json()["down"])) == (HTTPStatus.SERVICE_UNAVAILABLE, ["database"])
    assert (second.status_code, second.json()) == (HTTPStatus.OK, {"status": "ready"})
    assert (health.status_code, health.json()) == (HTTPStatus.OK, {"status": "healthy"})


async def test_a_check_that_hangs_is_down_after_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.admin._CHECK_TIMEOUT", 0.05)

    async def check() -> None:
        await asyncio.Event().wait()

    status, _, body = await AdminServer({"kafka": check}).answer("GET", "/ready")
    assert status is HTTPStatus.SERVICE_UNAVAILABLE
    assert b"did not answer" in body


async def test_metrics_are_served_and_anything_else_is_told_what_there_is() -> None:
    admin = AdminServer({})
    port = await admin.start("127.0.0.1", 0)
    try:
        metrics, nothing = await get(port, "/metrics"), await get(port, "/nothing")
        async with httpx.AsyncClient() as client:
            post = await client.post(f"http://127.0.0.1:{port}/health")
    finally:
        await admin.stop()
    assert "agent_requests_total" in metrics.text
    assert nothing.status_code == HTTPStatus.NOT_FOUND
    assert "/metrics" in nothing.json()["message"]
    assert post.status_code == HTTPStatus.METHOD_NOT_ALLOWED


async def test_a_client_that_talks_nonsense_does_not_disturb_the_admin_port() -> None:
    admin = AdminServer({})
    port = await admin.start("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
        await writer.drain()
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        assert (await get(port, "/health")).status_code == HTTPStatus.OK
    finally:
        await admin.stop()


async def test_a_stopping_service_is_not_ready_before_it_is_gone(tmp_path: Path) -> None:
    seen: list[bytes] = []
    tls = mesh_certificates(tmp_path)
    holder: list[RunningService] = []

    async def drain() -> None:
        seen.append((await get(holder[0].admin_port, "/ready")).content)

    @asynccontextmanager
    async def open_service(settings: ServiceSettings) -> AsyncIterator[Service]:
        yield Service("probe", drain=[drain])

    settings = ServiceSettings(port=0, admin_port=0, tls_dir=tls / "monitor", drain_seconds=0)
    async with running(open_service, settings, tls) as server:
        holder.append(server.running)
    assert b"is stopping" in seen[0]


def start(program: str, tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "GUILDMESH_ADMIN_PORT": "0", "GUILDMESH_PORT": "0", **environment}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        cwd=tmp_path,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_term_signal_closes_everything_and_ends_with_0(tmp_path: Path) -> None:
    process = start(PROGRAM.format(fails=False), tmp_path)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert '"serving"' in first
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "closed" in output


def test_a_background_task_that_breaks_ends_the_process_with_1_and_an_error_on_stderr(tmp_path: Path) -> None:
    process = start(PROGRAM.format(fails=True), tmp_path)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "broken" in errors


def test_a_wrong_setting_ends_the_process_with_2_and_names_it(tmp_path: Path) -> None:
    process = start(PROGRAM.format(fails=False), tmp_path, DB_POOL_SIZE="many")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "DB_POOL_SIZE" in errors
    assert "Traceback" not in errors
