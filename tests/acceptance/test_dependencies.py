"""A dependency goes away and comes back: /ready says so, and no service is restarted for it."""

from __future__ import annotations

from http import HTTPStatus

import httpx
import pytest

from tests.support.mesh import RunningMesh
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
SERVICES = ("identity", "scheduler", "relay", "agent", "worker", "tool", "memory", "monitor")


def pids(mesh: RunningMesh) -> dict[str, int]:
    """The process of each service."""
    return {name: mesh.pid(name) for name in SERVICES}


def ready(mesh: RunningMesh) -> httpx.Response:
    return httpx.get(f"{mesh.url}/ready", timeout=10)


@pytest.mark.parametrize(("part", "name"), [("postgres", "database"), ("redis", "redis"), ("kafka", "kafka")])
def test_a_part_that_stops_is_named_by_ready_until_it_is_back_and_no_service_restarts(
    mesh: RunningMesh, part: str, name: str
) -> None:
    eventually(lambda: ready(mesh).status_code == HTTPStatus.OK, 30)
    before = pids(mesh)
    mesh.ok("stop", part, timeout=100)
    try:
        eventually(lambda: ready(mesh).status_code == HTTPStatus.SERVICE_UNAVAILABLE and name in ready(mesh).json()["message"])
        body = ready(mesh).json()
        assert body["code"] == 14
        assert body["details"][0]["reason"] == "NOT_READY"
        assert name in body["details"][0]["metadata"]["down"]
        assert httpx.get(f"{mesh.url}/health").json() == {"status": "healthy"}
        detailed = httpx.get(f"{mesh.url}/health/detailed").json()
        assert detailed["status"] == "unhealthy"
        assert detailed["checks"][name]["status"] == "unhealthy"
    finally:
        mesh.ok("start", part, timeout=100)
    eventually(lambda: ready(mesh).status_code == HTTPStatus.OK, 30)
    assert ready(mesh).json() == {"status": "ready"}
    assert pids(mesh) == before
    headers = {"Authorization": f"Bearer {mesh.token()}"}
    answer = httpx.post(f"{mesh.url}/task", json={"task": "Say yes."}, headers=headers, timeout=30)
    assert answer.status_code == HTTPStatus.OK, answer.text
    url = f"{mesh.url}/v1/tasks/{answer.json()['task_id']}"
    eventually(lambda: httpx.get(url, headers=headers).json()["status"] == "completed", 60)
