"""The plan's own calls and the rest of the REST surface, as a client without any library of ours makes them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from http import HTTPStatus

import httpx
import pytest

from tests.support.mesh import RunningMesh
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def token(mesh: RunningMesh) -> str:
    """The developer's token."""
    return mesh.token()


@pytest.fixture
def client(mesh: RunningMesh, token: str) -> Iterator[httpx.Client]:
    """A client with the developer's token."""
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {token}"}, timeout=60) as client:
        yield client


@pytest.fixture
def stranger(mesh: RunningMesh) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=mesh.url, timeout=60) as client:
        yield client


def ok(response: httpx.Response) -> dict[str, object]:
    assert response.status_code == HTTPStatus.OK, response.text
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-trace-id"])
    body: dict[str, object] = response.json()
    return body


def test_a_password_is_exchanged_for_a_bearer_token(mesh: RunningMesh, client: httpx.Client, stranger: httpx.Client) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    ok(client.post("/v1/users", json={"username": name, "password": "a long password"}))
    credentials = {"username": name, "password": "a long password"}
    for answer in (stranger.post("/auth/token", json=credentials), stranger.post("/auth/token", data=credentials)):
        token = ok(answer)
        assert set(token) == {"access_token", "token_type", "expires_in"}
        assert token["token_type"] == "bearer"
        assert token["expires_in"] == 1800
        headers = {"authorization": f"Bearer {token['access_token']}"}
        assert ok(stranger.get("/status", headers=headers))["status"] in ("healthy", "degraded")
    refused = stranger.post("/auth/token", json=credentials | {"password": "wrong"})
    assert refused.status_code == HTTPStatus.UNAUTHORIZED
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["details"][0]["reason"] == "INVALID_CREDENTIALS"


def test_chat_answers_and_a_conversation_goes_on(client: httpx.Client) -> None:
    first = ok(client.post("/chat", json={"message": "My name is Ada."}))
    assert first["response"]
    second = ok(client.post("/chat", json={"message": "What is my name?", "conversation_id": first["conversation_id"]}))
    assert second["conversation_id"] == first["conversation_id"]
    listed = ok(client.get(f"/v1/conversations/{first['conversation_id']}/messages"))["messages"]
    assert isinstance(listed, list)
    assert {message["content"] for message in listed if message["role"] == "user"} == {"My name is Ada.", "What is my name?"}


def test_a_task_of_the_plan_runs_to_its_result(client: httpx.Client) -> None:
    submitted = ok(client.post("/task", json={"task": "Say yes.", "context": {"why": "a test"}, "priority": 7, "timeout": 60}))
    assert set(submitted) == {"task_id", "status"}
    assert submitted["status"] == "pending"
    url = f"/v1/tasks/{submitted['task_id']}"
    eventually(lambda: ok(client.get(url))["status"] == "completed", 60)
    task = ok(client.get(url))
    assert (task["priority"], task["timeout"], task["context"]) == (7, "60s", {"why": "a test"})


def test_a_task_of_the_plan_has_its_defaults(client: httpx.Client) -> None:
    submitted = ok(client.post("/task", json={"task": "Say yes."}))
    task = ok(client.get(f"/v1/tasks/{submitted['task_id']}"))
    assert (task["priority"], task["timeout"], task["queue"]) == (5, "300s", "default")


def test_status_and_health_are_shaped_as_the_plan_says(client: httpx.Client, stranger: httpx.Client) -> None:
    assert ok(stranger.get("/health")) == {"status": "healthy"}
    assert ok(stranger.get("/ready")) == {"status": "ready"}
    detailed = ok(stranger.get("/health/detailed"))
    assert set(detailed) == {"status", "checks", "timestamp", "event_lag"}
    assert detailed["event_lag"]["late"] is False
    assert isinstance(detailed["checks"], dict)
    assert {"database", "redis", "redis_cache", "kafka"} <= set(detailed["checks"])
    status = ok(client.get("/status"))
    assert set(status) == {"status", "version", "services", "tasks", "timestamp"}
    assert isinstance(status["services"], dict)
    assert {"identity", "scheduler", "agent", "tool", "memory"} <= set(status["services"])


def test_server_sent_events_tell_a_task_in_order_and_resume(client: httpx.Client) -> None:
    task_id = ok(client.post("/task", json={"task": "Say yes."}))["task_id"]
    with client.stream("GET", f"/v1/tasks/{task_id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        begun, *events = _events(response.iter_lines())
    assert begun == {"retry": "1000"}
    numbers = [int(event["id"]) for event in events if "id" in event]
    assert numbers == list(range(1, len(numbers) + 1))
    assert events[0]["event"] == "guildmesh.task.created.v1"
    assert json.loads(events[0]["data"])["task_id"] == task_id
    assert events[-1]["event"] == "end"
    with client.stream("GET", f"/v1/tasks/{task_id}/events", headers={"last-event-id": "1"}) as response:
        resumed = _events(response.iter_lines())
    assert [int(event["id"]) for event in resumed if "id" in event] == numbers[1:]


def _events(lines: Iterator[str]) -> list[dict[str, str]]:
    events: list[dict[str, str]] = [{}]
    for line in lines:
        if not line:
            events.append({})
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            events[-1][name] = value
    return [event for event in events if event]


def test_a_watch_is_one_json_object_a_line(client: httpx.Client) -> None:
    task_id = ok(client.post("/task", json={"task": "Say yes."}))["task_id"]
    numbers = [json.loads(line)["number"] for line in client.get(f"/v1/tasks/{task_id}:watch").text.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_request_id_makes_a_create_safe_to_repeat(client: httpx.Client) -> None:
    task = {"description": "once", "kind": "tests.nobody-runs-this"}
    request_id = str(uuid.uuid4())
    first, second = (ok(client.post(f"/v1/tasks?request_id={request_id}", json=task)) for _ in range(2))
    assert first["task_id"] == second["task_id"]
    other = client.post(f"/v1/tasks?request_id={request_id}", json={**task, "description": "twice"})
    assert other.status_code == HTTPStatus.CONFLICT
    assert other.json()["details"][0]["reason"] == "REQUEST_ID_REUSED"
    assert ok(client.post(f"/v1/tasks/{first['task_id']}:cancel", json={}))["status"] == "cancelled"


def test_the_documentation_is_there_for_people_and_programs(stranger: httpx.Client) -> None:
    document = ok(stranger.get("/openapi.json"))
    assert isinstance(document["paths"], dict)
    assert {"/auth/token", "/chat", "/task", "/status", "/health", "/ready", "/health/detailed"} <= set(document["paths"])
    page = stranger.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for file in re.findall(r'"(/docs/[^"]+)"', page.text):
        assert stranger.get(file).status_code == HTTPStatus.OK
    missing = stranger.get("/docs/nothing.js")
    assert missing.status_code == HTTPStatus.NOT_FOUND
    assert missing.json()["details"][0]["reason"] == "PAGE_NOT_FOUND"


def test_the_public_keys_verify_our_tokens(mesh: RunningMesh, stranger: httpx.Client) -> None:
    keys = ok(stranger.get("/.well-known/jwks.json"))["keys"]
    assert isinstance(keys, list)
    assert {key["alg"] for key in keys} == {"ES256"}
    assert all("d" not in key for key in keys)
