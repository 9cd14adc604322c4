"""Two tenants on one mesh: what belongs to the other looks unknown, by REST and by gRPC."""

from __future__ import annotations

import uuid
from http import HTTPStatus

import httpx
import pytest

from tests.support.mesh import RunningMesh

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def tenants(mesh: RunningMesh) -> dict[str, dict[str, str]]:
    """Two tenants with a user each; gives the headers of each user."""
    operator = {"Authorization": f"Bearer {mesh.token()}"}
    headers = {}
    for name in ("left", "right"):
        tenant = f"{name}-{uuid.uuid4().hex[:8]}"
        created = httpx.post(f"{mesh.url}/v1/tenants", json={"tenant_id": tenant, "display_name": name}, headers=operator)
        assert created.status_code == HTTPStatus.OK, created.text
        user = {"username": tenant, "password": "a long password", "tenant_id": tenant}
        created = httpx.post(f"{mesh.url}/v1/users", json=user, headers=operator)
        assert created.status_code == HTTPStatus.OK, created.text
        answer = httpx.post(f"{mesh.url}/auth/token", json={"username": tenant, "password": "a long password"})
        headers[name] = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return headers


def test_a_task_of_another_tenant_is_unknown_to_get_cancel_watch_and_list(
    mesh: RunningMesh, tenants: dict[str, dict[str, str]]
) -> None:
    task = {"description": "mine", "kind": "tests.nobody-runs-this"}
    created = httpx.post(f"{mesh.url}/v1/tasks", json=task, headers=tenants["left"])
    assert created.status_code == HTTPStatus.OK, created.text
    task_id = created.json()["task_id"]
    url = f"{mesh.url}/v1/tasks/{task_id}"
    assert httpx.get(url, headers=tenants["left"]).status_code == HTTPStatus.OK
    unknown = httpx.get(f"{mesh.url}/v1/tasks/{uuid.uuid4()}", headers=tenants["right"]).json()
    for answer in (
        httpx.get(url, headers=tenants["right"]),
        httpx.post(f"{url}:cancel", json={}, headers=tenants["right"]),
        httpx.get(f"{url}:watch", headers=tenants["right"]),
        httpx.get(f"{url}/events", headers=tenants["right"]),
        httpx.post(f"{mesh.url}/v1/tasks", json={**task, "parent_task_id": task_id}, headers=tenants["right"]),
    ):
        assert answer.status_code == HTTPStatus.NOT_FOUND, answer.text
        assert answer.json()["details"][0]["reason"] == unknown["details"][0]["reason"] == "TASK_NOT_FOUND"
    listed = httpx.get(f"{mesh.url}/v1/tasks", headers=tenants["right"]).json()["tasks"]
    assert task_id not in {item["task_id"] for item in listed}
    assert httpx.get(url, headers=tenants["left"]).json()["status"] == "pending"
    assert httpx.post(f"{url}:cancel", json={}, headers=tenants["left"]).json()["status"] == "cancelled"


def test_memories_conversations_tools_and_agents_of_another_tenant_are_unknown(
    mesh: RunningMesh, tenants: dict[str, dict[str, str]]
) -> None:
    left, right = tenants["left"], tenants["right"]
    memory = httpx.post(f"{mesh.url}/v1/memories", json={"content": "The vault code is 4711."}, headers=left).json()
    conversation = httpx.post(f"{mesh.url}/v1/conversations", json={"title": "mine"}, headers=left).json()
    agent = {"agent_id": "spy", "agent_type": "researcher"}
    assert httpx.post(f"{mesh.url}/v1/agents", json=agent, headers=left).status_code == HTTPStatus.OK
    tool = {"tool_name": "mine", "description": "mine", "source": "result = 1", "input_schema": {"type": "object"}}
    assert httpx.post(f"{mesh.url}/v1/tools", json=tool, headers=left).status_code == HTTPStatus.OK
    for path in (
        f"memories/{memory['memory_id']}",
        f"conversations/{conversation['conversation_id']}",
        f"conversations/{conversation['conversation_id']}/messages",
        "agents/spy",
        "tools/mine",
    ):
        assert httpx.get(f"{mesh.url}/v1/{path}", headers=left).status_code == HTTPStatus.OK, path
        assert httpx.get(f"{mesh.url}/v1/{path}", headers=right).status_code == HTTPStatus.NOT_FOUND, path
    found = httpx.post(f"{mesh.url}/v1/memories:search", json={"query": "vault code"}, headers=right).json()
    assert found["matches"] == []
    mine = httpx.post(f"{mesh.url}/v1/memories:search", json={"query": "vault code"}, headers=left).json()
    assert mine["matches"][0]["memory"]["memory_id"] == memory["memory_id"]
    run = httpx.post(f"{mesh.url}/v1/tools/mine:execute", json={"arguments": {}}, headers=right)
    assert run.status_code == HTTPStatus.NOT_FOUND


def test_queues_of_another_tenant_are_unknown_and_shared_ones_take_an_operator(
    mesh: RunningMesh, tenants: dict[str, dict[str, str]]
) -> None:
    operator, name = {"Authorization": f"Bearer {mesh.token()}"}, f"q-{uuid.uuid4().hex[:8]}"
    assert httpx.post(f"{mesh.url}/v1/queues", json={"queue": name}, headers=operator).status_code == HTTPStatus.OK
    for tenant in tenants.values():
        assert httpx.get(f"{mesh.url}/v1/queues/{name}", headers=tenant).status_code == HTTPStatus.NOT_FOUND
        listed = httpx.get(f"{mesh.url}/v1/queues", headers=tenant).json()["queues"]
        assert {queue["queue"] for queue in listed} == {"research", "code", "default", "analysis"}
        # A plain user changes nothing.
        made = httpx.post(f"{mesh.url}/v1/queues", json={"queue": "mine"}, headers=tenant)
        assert (made.status_code, made.json()["details"][0]["reason"]) == (HTTPStatus.FORBIDDEN, "ROLE_REQUIRED")
    admin = {"Authorization": f"Bearer {mesh.token(f'admin-{name}', roles=('admin',))}"}
    paused = httpx.post(f"{mesh.url}/v1/queues/analysis:pause", json={}, headers=admin)
    assert (paused.status_code, paused.json()["details"][0]["reason"]) == (HTTPStatus.FORBIDDEN, "SHARED_QUEUE")
    assert httpx.delete(f"{mesh.url}/v1/queues/{name}", headers=admin).status_code == HTTPStatus.OK


def test_a_user_cannot_make_users_in_another_tenant(mesh: RunningMesh, tenants: dict[str, dict[str, str]]) -> None:
    user = {"username": f"intruder-{uuid.uuid4().hex[:8]}", "password": "a long password", "tenant_id": "default"}
    answer = httpx.post(f"{mesh.url}/v1/users", json=user, headers=tenants["left"])
    assert answer.status_code == HTTPStatus.FORBIDDEN
    assert answer.json()["details"][0]["reason"] == "ROLE_REQUIRED"
