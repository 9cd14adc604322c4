"""Large inputs as a user has them: over REST, by the command line, and in the words of the guide."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.mesh import RunningMesh, guildmesh

pytestmark = pytest.mark.acceptance
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "large-payloads.md"


def environment(mesh: RunningMesh) -> dict[str, str]:
    path = f"{Path(guildmesh()).parent}{os.pathsep}{os.environ['PATH']}"
    return mesh.environment | {"PATH": path, "GUILDMESH_URL": mesh.url, "GUILDMESH_TOKEN": mesh.token()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an input of some MiB."""
    lines = [{"line": number, "text": "x" * 40} for number in range(60_000)]
    (tmp_path / "lines.json").write_text(json.dumps({"lines": lines}))
    assert (tmp_path / "lines.json").stat().st_size > 3 << 20
    return tmp_path


def run(mesh: RunningMesh, folder: Path, script: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(mesh),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_guide_says_what_works_over_rest(mesh: RunningMesh, folder: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    # `cmp` fails when what comes down is not what went up.
    task = json.loads(run(mesh, folder, script))
    assert task["context_payload"]
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {mesh.token()}"}, timeout=60) as client:
        found = client.get(f"/v1/payloads/{task['context_payload']}").json()
        assert (found["content_type"], int(found["size_bytes"])) == (
            "application/json",
            (folder / "lines.json").stat().st_size,
        )
        refused = client.delete(f"/v1/payloads/{task['context_payload']}")
        assert (refused.status_code, refused.json()["details"][0]["reason"]) == (400, "PAYLOAD_IN_USE")
        client.post(f"/v1/tasks/{task['task_id']}:cancel", json={})


def test_the_guide_says_what_works_on_the_command_line(mesh: RunningMesh, folder: Path) -> None:
    (script,) = re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    create, upload, get, download, delete = (line.partition("#")[0].strip() for line in script.splitlines())
    task_id = run(mesh, folder, create).strip()
    told = run(mesh, folder, f"PAYLOAD=$({upload})\n{get}\n{download}\ncmp lines.json copy.json\n{delete}")
    assert "is deleted" in told
    task = json.loads(run(mesh, folder, f"guildmesh tasks get {task_id}"))
    assert task["context_payload"]
    run(mesh, folder, f"guildmesh tasks cancel {task_id}")


def test_what_is_no_object_is_refused_before_it_is_sent(mesh: RunningMesh, folder: Path) -> None:
    (folder / "list.json").write_text("[1]")
    done = subprocess.run(
        [guildmesh(), "tasks", "create", "x", "--context-file", "list.json"],
        cwd=folder,
        env=environment(mesh),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "--context-file must be a JSON object" in done.stderr) == (1, True)
