"""Dependencies go away one after another and come back: /ready names each, and no service is restarted for it."""

from __future__ import annotations

from http import HTTPStatus

import httpx
import pytest

from tests.support.mesh import RunningMesh
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
PARTS = {"kafka": "kafka", "redis": "redis", "postgres": "database"}
"""The parts that stop, in this order, and what /ready calls them."""
SERVICES = ("identity", "scheduler", "relay", "webhooks", "agent", "worker", "tool", "memory", "monitor")


def pids(mesh: RunningMesh) -> dict[str, int]:
    """The process of each service."""
    return {name: row["pid"] for name, row in mesh.rows().items() if name in SERVICES}


def ready(mesh: RunningMesh) -> httpx.Response:
    return httpx.get(f"{mesh.url}/ready", timeout=10)


def named(mesh: RunningMesh) -> set[str]:
    """Which of the parts /ready says are away."""
    answer = ready(mesh)
    if answer.status_code == HTTPStatus.OK:
        return set()
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert answer.json()["code"] == 14
    detail = answer.json()["details"][0]
    assert detail["reason"] == "NOT_READY"
    return {name for name in PARTS.values() if name in answer.json()["message"] and name in detail["metadata"]["down"]}


def test_parts_that_stop_are_named_by_ready_until_they_are_back_and_no_service_restarts(mesh: RunningMesh) -> None:
    eventually(lambda: ready(mesh).status_code == HTTPStatus.OK, 30)
    before = pids(mesh)
    assert before.keys() == set(SERVICES)
    away: set[str] = set()
    try:
        for part, name in PARTS.items():
            mesh.ok("stop", part, timeout=100)
            away.add(name)
            # Each of those that are away and none that is not, so that the first are seen alone.
            eventually(lambda: named(mesh) == away)
            assert httpx.get(f"{mesh.url}/health").json() == {"status": "healthy"}
            detailed = httpx.get(f"{mesh.url}/health/detailed").json()
            assert detailed["status"] == "unhealthy"
            assert {each for each in PARTS.values() if detailed["checks"][each]["status"] == "unhealthy"} == away
    finally:
        for part in reversed(PARTS):
            mesh.ok("start", part, timeout=100)
    eventually(lambda: ready(mesh).status_code == HTTPStatus.OK, 30)
    assert ready(mesh).json() == {"status": "ready"}
    assert pids(mesh) == before
    headers = {"Authorization": f"Bearer {mesh.token()}"}
    answer = httpx.post(f"{mesh.url}/task", json={"task": "Say yes."}, headers=headers, timeout=30)
    assert answer.status_code == HTTPStatus.OK, answer.text
    url = f"{mesh.url}/v1/tasks/{answer.json()['task_id']}"
    eventually(lambda: httpx.get(url, headers=headers).json()["status"] == "completed", 60)
