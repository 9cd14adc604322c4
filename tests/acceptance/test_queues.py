"""Queues and dead letters as a user has them: over REST, by the command line, and in the words of the guides."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from tests.support.mesh import RunningMesh, guildmesh

pytestmark = pytest.mark.acceptance
GUIDES = Path(__file__).resolve().parents[2] / "docs" / "how-to"
# Fails all that it is given, for good.
WORKER = """
import asyncio, os, sys
import grpc
from guildmesh_client.worker import TaskFailed, Worker

async def main(kind, number):
    channel = grpc.aio.insecure_channel(os.environ["GUILDMESH_URL"].removeprefix("http://"))
    worker = Worker(channel=channel, metadata=(("authorization", f"Bearer {os.environ['GUILDMESH_TOKEN']}"),))
    seen = 0

    @worker.task(kind)
    async def fail(task):
        nonlocal seen
        seen += 1
        if seen == number:
            worker.stop()
        raise TaskFailed("BROKEN", "it broke", retryable=False)

    await worker.run()
    await channel.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def client(mesh: RunningMesh) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {mesh.token()}"}, timeout=60) as client:
        yield client


def environment(mesh: RunningMesh) -> dict[str, str]:
    path = f"{Path(guildmesh()).parent}{os.pathsep}{os.environ['PATH']}"
    return mesh.environment | {"PATH": path, "GUILDMESH_URL": mesh.url, "GUILDMESH_TOKEN": mesh.token()}


def failed_task(mesh: RunningMesh, client: httpx.Client, queue: str) -> str:
    """A task that a worker has failed for good."""
    kind = f"tests.fails-{uuid.uuid4().hex[:12]}"
    created = client.post("/v1/tasks", json={"description": "fails", "kind": kind, "queue": queue}).json()
    command = [sys.executable, "-c", WORKER, kind, "1"]
    subprocess.run(command, env=environment(mesh), check=True, timeout=60, capture_output=True)
    task = client.get(f"/v1/tasks/{created['task_id']}").json()
    assert (task["status"], task["error"]["reason"]) == ("failed", "BROKEN")
    return str(created["task_id"])


def test_a_queue_is_created_changed_used_and_deleted_over_rest(client: httpx.Client) -> None:
    name = f"q-{uuid.uuid4().hex[:12]}"
    url = f"/v1/queues/{name}"
    body = {"queue": name, "priority": 7, "max_attempts": 2, "rate_limit": {"per_second": 3}, "retention_days": 0}
    created = client.post("/v1/queues", json=body)
    assert created.status_code == HTTPStatus.OK, created.text
    queue = created.json()
    assert (queue["priority"], queue["rate_limit"], queue["retention_days"]) == (7, {"per_second": 3, "burst": 3}, 0)
    again = client.post("/v1/queues", json=body)
    assert (again.status_code, again.json()["details"][0]["reason"]) == (HTTPStatus.CONFLICT, "QUEUE_EXISTS")
    changed = client.patch(url, params={"update_mask": "max_running"}, json={"max_running": 3, "etag": queue["etag"]})
    assert (changed.status_code, changed.json()["max_running"]) == (HTTPStatus.OK, 3)
    stale = client.patch(url, json={"priority": 1, "etag": queue["etag"]})
    assert (stale.status_code, stale.json()["details"][0]["reason"]) == (HTTPStatus.CONFLICT, "ETAG_MISMATCH")
    wrong = client.patch(url, json={"retention_days": 2})
    assert wrong.status_code == HTTPStatus.BAD_REQUEST
    assert client.post(f"{url}:pause", json={}).json()["paused"] is True
    assert client.post(f"{url}:resume", json={}).json()["paused"] is False
    assert name in [entry["queue"] for entry in client.get("/v1/queues").json()["queues"]]
    task = client.post("/v1/tasks", json={"description": "waits", "kind": "tests.nobody-runs-this", "queue": name}).json()
    assert task["max_attempts"] == 2
    full = client.delete(url)
    assert (full.status_code, full.json()["details"][0]["reason"]) == (HTTPStatus.BAD_REQUEST, "QUEUE_NOT_EMPTY")
    assert client.post(f"/v1/tasks/{task['task_id']}:cancel", json={}).status_code == HTTPStatus.OK
    assert client.delete(url).status_code == HTTPStatus.OK
    assert client.get(url).status_code == HTTPStatus.NOT_FOUND


def test_a_failed_task_is_found_and_replayed_once_over_rest(mesh: RunningMesh, client: httpx.Client) -> None:
    task_id = failed_task(mesh, client, "code")
    where = {"queue": "code", "filter": 'reason = BROKEN AND replayed = "false"'}
    listed = client.get("/v1/dead-letters", params=where).json()["dead_letters"]
    assert task_id in [letter["task_id"] for letter in listed]
    assert client.get(f"/v1/dead-letters/{task_id}").json()["attempts"] == 1
    replay = client.post(f"/v1/tasks/{task_id}:replay", json={}).json()
    assert replay["replay_of"] == task_id
    assert client.post(f"/v1/tasks/{task_id}:replay", json={}).json()["task_id"] == replay["task_id"]
    early = client.post(f"/v1/tasks/{replay['task_id']}:replay", json={})
    assert (early.status_code, early.json()["details"][0]["reason"]) == (HTTPStatus.BAD_REQUEST, "TASK_NOT_FAILED")
    done = client.post("/v1/dead-letters:replay", json=where).json()
    assert (done["left"], task_id in [one["task_id"] for one in done["replays"]]) == ("0", False)
    dismissed = client.post("/v1/dead-letters:delete", json={"queue": "code", "filter": "reason = BROKEN"}).json()
    assert (int(dismissed["deleted"]) >= 1, dismissed["left"]) == (True, "0")
    assert client.get(f"/v1/dead-letters/{task_id}").status_code == HTTPStatus.NOT_FOUND
    for one in (replay["task_id"], *(one["replay_task_id"] for one in done["replays"])):
        client.post(f"/v1/tasks/{one}:cancel", json={})


@pytest.mark.parametrize("guide", ["manage-queues.md", "replay-dead-letters.md"])
def test_the_examples_of_the_guides_work_as_they_stand(mesh: RunningMesh, client: httpx.Client, guide: str) -> None:
    blocks = re.findall(r"```(sh|python)\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)
    assert {language for language, _ in blocks} == {"sh", "python"}
    for language, block in blocks:
        if guide == "replay-dead-letters.md":
            failed_task(mesh, client, "default")
        interpreter = [sys.executable, "-c"] if language == "python" else ["/bin/sh", "-euc"]
        done = subprocess.run([*interpreter, block], env=environment(mesh), capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
