"""Schedules as a user has them: over REST, by the command line, and in the words of the guide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import httpx
import psycopg2
import pytest

from tests.support.mesh import RunningMesh, guildmesh
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "schedule-tasks.md"


@pytest.fixture
def client(mesh: RunningMesh) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {mesh.token()}"}, timeout=60) as client:
        yield client


def test_a_schedule_is_created_changed_runs_by_itself_and_is_deleted_over_rest(mesh: RunningMesh, client: httpx.Client) -> None:
    name = f"s-{uuid.uuid4().hex[:12]}"
    url = f"/v1/schedules/{name}"
    task = {"description": "Nobody runs this.", "kind": "tests.nobody-runs-this"}
    # Not due by itself within the test.
    body = {"cron": "0 0 29 2 *", "time_zone": "Europe/Berlin", "task": task, "catch_up_window": "3600s"}
    created = client.post("/v1/schedules", params={"schedule_id": name}, json=body).json()
    assert (created["schedule_id"], created["overlap_policy"], len(created["next_run_times"])) == (name, "OVERLAP_POLICY_SKIP", 5)
    again = client.post("/v1/schedules", params={"schedule_id": name}, json=body)
    assert again.status_code == HTTPStatus.CONFLICT
    changes = {"note": "changed", "cron": "1 0 29 2 *", "etag": created["etag"]}
    changed = client.patch(url, params={"update_mask": "note"}, json=changes)
    assert changed.status_code == HTTPStatus.OK, changed.text
    assert (changed.json()["note"], changed.json()["cron"]) == ("changed", "0 0 29 2 *")
    stale = client.patch(url, params={"update_mask": "note"}, json=changes)
    assert (stale.status_code, stale.json()["details"][0]["reason"]) == (HTTPStatus.CONFLICT, "ETAG_MISMATCH")
    wrong = client.patch(url, json={"cron": "61 * * * *"})
    assert (wrong.status_code, wrong.json()["details"][0]["reason"]) == (HTTPStatus.BAD_REQUEST, "INVALID_CRON")
    put = client.put(url, json={})
    assert (put.status_code, put.headers["allow"]) == (HTTPStatus.METHOD_NOT_ALLOWED, "DELETE, GET, PATCH")
    # A minute is not waited for: the row is made due, and whoever looks next starts the run.
    with closing(psycopg2.connect(mesh.exports()["DATABASE_URL"])) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
        cursor.execute("UPDATE scheduler.schedules SET next_time = now(), wake_time = now() WHERE schedule_id = %s", (name,))
    eventually(lambda: client.get(url).json()["run_count"] == "1")
    first = client.get(url).json()["last_task_id"]
    labels = client.get(f"/v1/tasks/{first}").json()["labels"]
    assert labels["guildmesh.schedule_id"] == name
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["guildmesh.schedule_time"])
    triggered = client.post(f"{url}:trigger", json={}).json()["task_id"]
    assert name in [schedule["schedule_id"] for schedule in client.get("/v1/schedules").json()["schedules"]]
    assert client.delete(url).status_code == HTTPStatus.OK
    assert client.get(url).status_code == HTTPStatus.NOT_FOUND
    for task_id in (first, triggered):
        assert client.post(f"/v1/tasks/{task_id}:cancel", json={}).status_code == HTTPStatus.OK


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
