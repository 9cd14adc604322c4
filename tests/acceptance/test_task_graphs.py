"""Graphs of tasks as a user has them: over REST, by the command line, and in the words of the guide."""

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
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "depend-on-tasks.md"


@pytest.fixture
def client(mesh: RunningMesh) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {mesh.token()}"}, timeout=60) as client:
        yield client


def graph(**needs: list[str]) -> dict[str, object]:
    nodes = [
        {
            "key": key,
            "task": {"description": key, "kind": "tests.nobody-runs-this"},
            "dependencies": [{"key": each, "failure_policy": "DEPENDENCY_FAILURE_POLICY_CANCEL"} for each in needed],
        }
        for key, needed in needs.items()
    ]
    return {"request_id": str(uuid.uuid4()), "nodes": nodes}


def test_a_graph_is_created_once_shown_and_follows_its_policies_over_rest(client: httpx.Client) -> None:
    body = graph(join=["left", "right"], left=[], right=[])
    created = client.post("/v1/tasks:createGraph", json=body)
    assert created.status_code == HTTPStatus.OK, created.text
    ids = {result["key"]: result["task_id"] for result in created.json()["results"]}
    assert client.post("/v1/tasks:createGraph", json=body).json() == created.json()
    shown = client.get(f"/v1/tasks/{ids['join']}").json()
    assert (shown["state"], shown["status"], shown["blocked_by"]) == ("TASK_STATE_BLOCKED", "blocked", 2)
    assert [(each["task_id"], each["name"]) for each in shown["dependencies"]] == [(ids["left"], "left"), (ids["right"], "right")]
    blocked = client.get("/v1/tasks", params={"filter": "state = BLOCKED", "page_size": 200}).json()["tasks"]
    assert ids["join"] in [task["task_id"] for task in blocked]
    assert client.post(f"/v1/tasks/{ids['left']}:cancel", json={}).status_code == HTTPStatus.OK
    assert client.get(f"/v1/tasks/{ids['join']}").json()["status"] == "cancelled"
    assert client.post(f"/v1/tasks/{ids['right']}:cancel", json={}).status_code == HTTPStatus.OK


def test_a_cycle_is_named_over_rest(client: httpx.Client) -> None:
    refused = client.post("/v1/tasks:createGraph", json=graph(a=["b"], b=["a"]))
    [info, *_] = refused.json()["details"]
    assert (refused.status_code, info["reason"], info["metadata"]) == (
        HTTPStatus.BAD_REQUEST,
        "DEPENDENCY_CYCLE",
        {"cycle": "a -> b -> a"},
    )


def test_the_largest_graph_goes_through_the_gateway(client: httpx.Client) -> None:
    needs = {str(number): [str(number - 1)] if number else [] for number in range(10_000)}
    created = client.post("/v1/tasks:createGraph", json=graph(**needs))
    assert created.status_code == HTTPStatus.OK, created.text[:500]
    results = created.json()["results"]
    assert len(results) == 10_000
    assert client.post(f"/v1/tasks/{results[0]['task_id']}:cancel", json={}).status_code == HTTPStatus.OK
    last = f"/v1/tasks/{results[-1]['task_id']}"
    eventually(lambda: client.get(last).json()["status"] == "cancelled")


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_examples_of_the_guide_work_as_they_stand(mesh: RunningMesh, language: str, tmp_path: Path) -> None:
    blocks = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert blocks
    interpreter = [sys.executable, "-c"] if language == "python" else ["/bin/sh", "-euc"]
    path = f"{Path(guildmesh()).parent}{os.pathsep}{os.environ['PATH']}"
    environment = mesh.environment | {"PATH": path, "GUILDMESH_URL": mesh.url, "GUILDMESH_TOKEN": mesh.token()}
    for block in blocks:
        done = subprocess.run(
            [*interpreter, block], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        if language == "python":
            assert done.stdout == "The pages have 9 words.\n"
