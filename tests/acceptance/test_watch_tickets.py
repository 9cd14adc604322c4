"""Someone without a token in the request follows one task, as a browser does."""

from __future__ import annotations

import uuid

import httpx
import pytest

from tests.support.mesh import RunningMesh

pytestmark = pytest.mark.acceptance


def test_a_ticket_and_a_cookie_show_one_task_and_are_in_no_log(mesh: RunningMesh) -> None:
    headers = {"authorization": f"Bearer {mesh.token()}"}
    with httpx.Client(base_url=mesh.url, timeout=30) as client:
        kind = f"nobody-runs.{uuid.uuid4().hex[:8]}"
        mine, other = (
            client.post("/v1/tasks", json={"description": "x", "kind": kind}, headers=headers).json()["task_id"] for _ in range(2)
        )
        for task_id in (mine, other):
            assert client.post(f"/v1/tasks/{task_id}:cancel", json={}, headers=headers).status_code == 200
        made = client.post("/v1/watch-tickets", json={"task_id": mine}, headers=headers)
        assert made.status_code == 200, made.text
        answer = made.json()
        assert answer["expires_in"] == 60
        assert 60 < answer["cookie_expires_in"] <= 1800
        set_cookie = made.headers["set-cookie"]
        assert set_cookie.split("; ")[1:2] == [f"Path=/v1/tasks/{mine}/events"]
        assert {"HttpOnly", "SameSite=Strict"} <= set(set_cookie.split("; "))
        client.cookies.clear()
        cookie = set_cookie.split(";")[0]
        by_ticket = client.get(f"/v1/tasks/{mine}/events", params={"ticket": answer["ticket"]})
        by_cookie = client.get(f"/v1/tasks/{mine}/events", headers={"cookie": cookie, "last-event-id": "1"})
        assert by_ticket.text.startswith("retry: 1000\n\nid: 1\n")
        assert by_cookie.text.startswith("retry: 1000\n\nid: 2\n")
        assert by_cookie.text.endswith("event: end\ndata: {}\n\n")
        refused = client.get(f"/v1/tasks/{other}/events", params={"ticket": answer["ticket"]})
        assert (refused.status_code, refused.json()["details"][0]["reason"]) == (403, "WATCH_TICKET_REFUSED")
        assert client.get(f"/v1/tasks/{mine}", params={"ticket": answer["ticket"]}).status_code == 401
        assert client.post("/v1/watch-tickets", json={"task_id": mine}).status_code == 401
        malformed = client.post("/v1/watch-tickets", json={"task_id": "../x"}, headers=headers)
        assert (malformed.status_code, malformed.json()["details"][0]["reason"]) == (400, "INVALID_ARGUMENT")
    logs = list((mesh.state_dir / "logs").glob("*"))
    assert logs
    for log in logs:
        text = log.read_text(errors="replace")
        assert answer["ticket"] not in text, log.name
        assert cookie.partition("=")[2] not in text, log.name
