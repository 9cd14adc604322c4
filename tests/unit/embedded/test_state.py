"""The state folder."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.embedded import processes
from services.embedded.errors import MeshError
from services.embedded.mesh import STOPPED, look, sweep, take_down
from services.embedded.parts.part import Launch
from services.embedded.ports import free_port, free_ports, is_taken, owner, require_free
from services.embedded.state import StateFolder
from services.embedded.status import PartStatus, State


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "mesh")
    folder.create()
    return folder


def test_secrets_are_private_and_stay_the_same(state: StateFolder) -> None:
    assert state.secret("redis") == StateFolder(state.path).secret("redis")
    assert state.secret("redis") != state.secret("cache")
    for name in ("secrets.json", state.developer_password().name):
        assert stat.S_IMODE((state.path / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.tls.stat().st_mode) == 0o700


def test_the_folder_ignores_itself_in_git(state: StateFolder) -> None:
    assert (state.path / ".gitignore").read_text() == "*\n"


def test_a_port_is_kept_until_someone_else_takes_it(state: StateFolder) -> None:
    port = state.port("identity")
    assert state.port("identity") == port
    with socket.create_server(("127.0.0.1", port)):
        assert state.port("identity") != port


def test_only_one_supervisor_holds_the_folder(state: StateFolder) -> None:
    assert not state.is_locked()
    with state.locked() as first, state.locked() as second:
        assert (first, second) == (True, False)
        assert state.is_locked()
    assert not state.is_locked()


def test_a_record_without_a_living_supervisor_means_stopped(state: StateFolder) -> None:
    row = PartStatus("redis", state=State.HEALTHY)
    state.write_record({"phase": "up", "parts": [row.as_dict()]})
    snapshot = look(state)
    assert snapshot.phase == STOPPED
    assert snapshot.rows[0].state is State.STOPPED


def test_what_a_killed_supervisor_left_is_ended(state: StateFolder) -> None:
    process = processes.start(Launch(("/bin/sh", "-c", "sleep 1000 & wait")), state.logs / "left.log")
    mark = processes.footprint("left", process.pid)
    row = PartStatus("left", pid=mark.pid, started=mark.started)
    state.write_record({"phase": "up", "parts": [row.as_dict()]})
    assert [each.part for each in sweep(state)] == ["left"]
    process.wait(5)
    assert not mark.alive()
    assert sweep(state) == []


def test_a_process_id_that_was_used_again_is_left_alone(state: StateFolder) -> None:
    row = PartStatus("old", pid=os.getpid(), started=1.0)
    state.write_record({"phase": "up", "parts": [row.as_dict()]})
    assert not take_down(state)


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "mesh").write_text("")
    with pytest.raises(MeshError, match="GUILDMESH_STATE_DIR"):
        StateFolder(tmp_path / "mesh").create()


def test_a_taken_port_names_its_holder_and_the_way_out() -> None:
    port = free_port()
    require_free(port, "API_PORT")
    with socket.create_server(("127.0.0.1", port)):
        assert is_taken(port)
        assert str(os.getpid()) in (owner(port) or "")
        with pytest.raises(MeshError, match=rf"Port {port} is taken by .*pid {os.getpid()}.*API_PORT={port + 1}"):
            require_free(port, "API_PORT")


def test_free_ports_are_not_those_that_connections_get() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert not any(first <= port <= last or port < 1024 for port in ports)


def test_a_process_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from services.embedded import processes
from services.embedded.parts.part import Launch
child = processes.start(Launch(("/bin/sleep", "1000")), Path({str(tmp_path / "log")!r}))
print(child.pid, flush=True)
time.sleep(1000)
"""
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout:
        child = int(starter.stdout.readline())
    handle = os.pidfd_open(child)
    try:
        starter.kill()
        starter.wait()
        import select

        assert select.select([handle], [], [], 5)[0], "the child outlived its starter"
    finally:
        os.close(handle)
