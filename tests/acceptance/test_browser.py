"""Pages in headless Chromium follow a task through the gateway and lose their connections again and again.

By default the task takes a few seconds. GUILDMESH_BROWSER_SECONDS=600 makes it ten minutes, in which every ticket is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from guildmesh_client.worker import Task, Worker

from tests.support.mesh import RunningMesh
from tests.support.node import node_folder
from tests.support.requirements import missing
from tests.support.tcp_proxy import open_tcp_proxy

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "examples" / "browser"
DRIVER = ROOT / "tests" / "support" / "browser"
SECONDS = float(os.environ.get("GUILDMESH_BROWSER_SECONDS", "4"))
CHUNKS = 60
CUTS = 5
pytestmark = [pytest.mark.acceptance, pytest.mark.toolchain, pytest.mark.timeout(120 + 2 * SECONDS)]


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None) or missing("chromium is not installed")


@pytest.fixture
def other_origin() -> Iterator[str]:
    """The pages on an origin that is not the gateway's."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=PAGES)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.asynccontextmanager
async def telling(mesh: RunningMesh, token: str, kind: str, begin: asyncio.Event, end: asyncio.Event) -> AsyncIterator[None]:
    """A worker whose tasks put out 60 chunks, each an event of its own, once they may begin; the last ten once they may end."""
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        worker = Worker(channel=channel, metadata=[("authorization", f"Bearer {token}")])

        @worker.task(kind)
        async def tell(task: Task) -> Any:
            await begin.wait()
            for number in range(CHUNKS):
                if number == CHUNKS - 10:
                    await end.wait()
                await task.output(f"{number}\n" + "." * 4000)
                await asyncio.sleep(SECONDS / CHUNKS)
            return "done"

        working = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            await working


async def told_by(arguments: list[str]) -> AsyncIterator[dict[str, Any]]:
    """What the pages tell, until all have the end."""
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, limit=1 << 20)
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            told = json.loads(line)
            assert "error" not in told, told
            yield told
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_pages_that_lose_their_connection_five_times_have_every_event_once_and_in_order(
    mesh: RunningMesh, other_origin: str
) -> None:
    program, node = chromium(), await asyncio.to_thread(node_folder, DRIVER)
    token = await asyncio.to_thread(mesh.token)
    kind, begin, end = f"browser.{uuid.uuid4().hex[:8]}", asyncio.Event(), asyncio.Event()
    numbers: dict[int, list[int]] = {0: [], 1: []}
    states: Counter[tuple[int, str]] = Counter()
    connected: set[int] = set()
    cuts = 0
    async with (
        telling(mesh, token, kind, begin, end),
        httpx.AsyncClient(base_url=mesh.url, headers={"authorization": f"Bearer {token}"}, timeout=30) as client,
        open_tcp_proxy([mesh.api_port]) as proxy,
        asyncio.timeout(100 + 1.6 * SECONDS),
    ):
        asked = {"description": "tell a story", "kind": kind, "timeout": "3600s"}
        task_id = (await client.post("/v1/tasks", json=asked)).json()["task_id"]
        gateway = f"http://127.0.0.1:{proxy.port}"
        # The first comes by the cookie, the second by tickets.
        pages = [f"{gateway}/follow/follow.html", f"{other_origin}/follow.html"]
        driver = [node, str(DRIVER / "follow.mjs"), program, str(PAGES), gateway, token, task_id]
        async with contextlib.aclosing(told_by([*driver, *pages])) as stories:
            async for told in stories:
                page = told["page"]
                if "number" in told:
                    numbers[page].append(told["number"])
                else:
                    states[page, told["state"]] += 1
                if told.get("state") == "connected":
                    connected.add(page)
                if connected != set(numbers):
                    continue
                begin.set()
                if cuts < CUTS and min(map(len, numbers.values())) > (cuts + 1) * CHUNKS // (CUTS + 2):
                    cuts += 1
                    connected.clear()
                    assert proxy.cut() >= 2
                    if cuts == CUTS:
                        end.set()
        last = (await client.get(f"/v1/tasks/{task_id}")).json()["last_event_number"]
    assert cuts == CUTS
    assert last >= CHUNKS
    for page, found in numbers.items():
        assert found == list(range(1, last + 1)), f"page {page}: {found}"
        assert states[page, "lost"] >= CUTS
        assert states[page, "ended"] == 1
