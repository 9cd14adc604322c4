"""Webhooks as a user has them: over REST, by the command line, and in the words of the guide."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest
from guildmesh_client.webhooks import event_of, verify

from tests.support.mesh import RunningMesh, guildmesh
from tests.support.receiver import Receiver, Request
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "receive-webhooks.md"


@pytest.fixture
def client(mesh: RunningMesh) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {mesh.token()}"}, timeout=60) as client:
        yield client


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    receiver = Receiver()
    try:
        asyncio.run_coroutine_threadsafe(receiver.start(), loop).result(10)
        yield receiver
    finally:

        async def end() -> None:
            await receiver.stop()
            await asyncio.sleep(0)
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def of_task(receiver: Receiver, task_id: str) -> list[Request]:
    return [request for request in receiver.taken if request.id.startswith(task_id)]


def test_a_webhook_is_made_tested_and_gets_the_events_over_rest(mesh: RunningMesh, client: httpx.Client) -> None:
    name = f"w-{uuid.uuid4().hex[:12]}"
    url = f"/v1/webhooks/{name}"
    with receiving() as receiver:
        body = {"url": receiver.url, "filter": "kind = tests.nobody-runs-this"}
        created = client.post("/v1/webhooks", params={"webhook_id": name}, json=body)
        assert created.status_code == HTTPStatus.OK, created.text
        assert created.json()["state"] == "WEBHOOK_STATE_ACTIVE"
        secret = created.json()["secret"]
        again = client.post("/v1/webhooks", params={"webhook_id": name}, json=body)
        assert (again.status_code, again.json()["details"][0]["reason"]) == (HTTPStatus.CONFLICT, "WEBHOOK_EXISTS")
        told = client.get(url).json()
        assert told["secret"] == ""
        ping = client.post(f"{url}:test", json={}).json()
        assert (ping["delivered"], ping["status_code"]) == (True, 200)
        trace_id = uuid.uuid4().hex
        task = {"description": "x", "kind": "tests.nobody-runs-this"}
        task_id = client.post("/v1/tasks", json=task, headers={"traceparent": f"00-{trace_id}-{'1' * 16}-01"}).json()["task_id"]
        assert client.post(f"/v1/tasks/{task_id}:cancel", json={}).status_code == HTTPStatus.OK
        eventually(lambda: len(of_task(receiver, task_id)) >= 2)
        assert {request.headers["traceparent"].split("-")[1] for request in of_task(receiver, task_id)} == {trace_id}
        for number, request in enumerate(of_task(receiver, task_id), 1):
            assert verify(secret, request.headers, request.body) == f"{task_id}/{number}"
            assert event_of(request.body).number == number
        changed = client.patch(url, json={"description": "changed", "etag": told["etag"]})
        assert changed.json()["description"] == "changed"
        stale = client.patch(url, json={"description": "again", "etag": told["etag"]})
        assert (stale.status_code, stale.json()["details"][0]["reason"]) == (HTTPStatus.CONFLICT, "ETAG_MISMATCH")
        assert client.get(f"{url}/failed-deliveries").json() == {"failed_deliveries": [], "next_page_token": ""}
        missing = client.get(f"{url}/failed-deliveries/{task_id}.1")
        assert missing.json()["details"][0]["reason"] == "FAILED_DELIVERY_NOT_FOUND"
        replayed = client.post(f"{url}/failed-deliveries:replay", json={}).json()
        assert replayed == {"replayed": 0, "left": "0"}
        assert client.post(f"{url}:rotateSecret", json={}).json()["secret"] != secret
        for wrong in ("ftp://example.com", "https://ada:b@example.com", "https://10.0.0.1/", "http://169.254.169.254/x"):
            refused = client.post("/v1/webhooks", json={"url": wrong})
            assert refused.json()["details"][0]["reason"] == "INVALID_WEBHOOK_URL", refused.text
        assert client.post("/v1/webhooks", json={"url": receiver.url, "filter": "x = 1"}).status_code == HTTPStatus.BAD_REQUEST
        future = client.post(f"{url}:replay", json={"start_time": "2999-01-01T00:00:00Z"})
        assert future.json()["details"][0]["reason"] == "INVALID_ARGUMENT"
        assert client.delete(url).status_code == HTTPStatus.OK
        assert client.get(url).json()["details"][0]["reason"] == "WEBHOOK_NOT_FOUND"


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_examples_of_the_guide_work_as_they_stand(mesh: RunningMesh, language: str) -> None:
    blocks = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert blocks
    interpreter = [sys.executable, "-c"] if language == "python" else ["/bin/sh", "-euc"]
    path = f"{Path(guildmesh()).parent}{os.pathsep}{os.environ['PATH']}"
    environment = mesh.environment | {"PATH": path, "GUILDMESH_URL": mesh.url, "GUILDMESH_TOKEN": mesh.token()}
    for block in blocks:
        done = subprocess.run([*interpreter, block], env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
