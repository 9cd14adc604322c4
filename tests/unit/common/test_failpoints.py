"""Failpoints: what the rules mean, and that every place has a name and every name a place."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError

from services.common.errors import DependencyUnavailable
from services.common.failpoints import CRASH_STATUS, POINTS, Failpoints, WrongRule, armed, peer_socket

ROOT = Path(__file__).resolve().parents[3]
BEFORE = "scheduler.create.before_commit"
CREATE = "scheduler.create.after_commit"
PUBLISH = "relay.publish.after_send"


def told() -> tuple[list[dict[str, Any]], Any]:
    lines: list[dict[str, Any]] = []
    return lines, lambda line: lines.append(json.loads(line))


async def failures(points: Failpoints, name: str, times: int) -> list[bool]:
    """Whether each of some visits failed."""
    found = []
    for _ in range(times):
        try:
            await points.reach(name)
        except DependencyUnavailable:
            found.append(True)
        else:
            found.append(False)
    return found


async def test_nothing_happens_when_nothing_is_set() -> None:
    fail_point = armed({})
    # Not even the loop gets a turn.
    with pytest.raises(StopIteration):
        fail_point(CREATE).__await__().send(None)
    assert fail_point.__name__ == "_nothing"  # type: ignore[attr-defined]


async def test_an_error_is_the_one_of_the_real_thing() -> None:
    lines, tell = told()
    points = Failpoints(f"{CREATE}=error,{PUBLISH}=error,{BEFORE}=error", tell=tell)
    with pytest.raises(DependencyUnavailable):
        await points.reach(CREATE)
    with pytest.raises(KafkaConnectionError):
        await points.reach(PUBLISH)
    with pytest.raises(asyncpg.PostgresConnectionError):
        await points.reach(BEFORE)
    await points.reach("scheduler.lease.after_commit")
    assert [(line["name"], line["action"], line["hit"]) for line in lines] == [
        (name, "error", 1) for name in (CREATE, PUBLISH, BEFORE)
    ]


async def test_a_cut_cuts_the_connection_or_raises_where_there_is_none() -> None:
    _, tell = told()
    points = Failpoints("scheduler.*=cut", tell=tell)
    cut: list[bool] = []
    await points.reach(CREATE, lambda: cut.append(True))
    assert cut == [True]
    with pytest.raises(DependencyUnavailable):
        await points.reach("scheduler.lease.after_commit")


async def test_the_socket_of_a_peer_is_cut_by_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, address = server.accept()
        with accepted:
            peer_socket(f"ipv4:127.0.0.1:{address[1]}")()
            client.settimeout(5)
            assert client.recv(1) == b""


async def test_a_delay_takes_that_long(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tell = told()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("services.common.failpoints.asyncio.sleep", sleep)
    await Failpoints(f"{CREATE}=delay:60", tell=tell).reach(CREATE)
    assert slept == [0.06]


async def test_when_is_a_turn_or_a_chance_that_the_seed_decides() -> None:
    _, tell = told()
    assert await failures(Failpoints(f"{CREATE}=error@3", tell=tell), CREATE, 5) == [False, False, True, False, False]
    by_chance = [await failures(Failpoints(f"{CREATE}=error@0.3", seed=seed, tell=tell), CREATE, 200) for seed in "112"]
    assert by_chance[0] == by_chance[1] != by_chance[2]
    assert all(30 < sum(line) < 90 for line in by_chance)


async def test_a_file_arms_and_disarms_a_running_process(tmp_path: Path) -> None:
    lines, tell = told()
    file = tmp_path / "rules"
    points = Failpoints("", file, tell=tell)
    await points.reach(CREATE)
    write(file, f"{CREATE}=error\n{PUBLISH}=error")
    assert await failures(points, CREATE, 2) == [True, True]
    write(file, "what is this")
    assert await failures(points, CREATE, 1) == [True]
    assert "what is this" in lines[-2]["error"]
    write(file, "")
    assert await failures(points, CREATE, 2) == [False, False]
    file.unlink()
    await points.reach(CREATE)


def write(file: Path, text: str) -> None:
    """Replaces the file at once, as a test must: half a rule is no rule."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_off_shields_from_the_rules_after_it() -> None:
    _, tell = told()
    points = Failpoints(f"{CREATE}=off,scheduler.*=error", tell=tell)
    assert asyncio.run(failures(points, CREATE, 1)) == [False]
    assert asyncio.run(failures(points, "scheduler.lease.after_commit", 1)) == [True]


def test_a_crash_is_a_crash(tmp_path: Path) -> None:
    code = (
        "import asyncio; from services.common.failpoints import fail_point;"
        f"asyncio.run(fail_point({CREATE!r})); print('survived'); asyncio.run(fail_point({CREATE!r})); print('never')"
    )
    environment = {**os.environ, "GUILDMESH_FAILPOINTS": f"{CREATE}=crash@2"}
    done = subprocess.run([sys.executable, "-uc", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (CRASH_STATUS, "survived\n"), done.stderr
    assert json.loads(done.stderr) == {"event": "failpoint", "name": CREATE, "action": "crash", "hit": 2}


@pytest.mark.parametrize(
    "rules", ["x", "a.b=error", f"{CREATE}=explode", f"{CREATE}=delay", f"{CREATE}=error@x", f"{CREATE}=crash:1"]
)
def test_a_wrong_rule_is_refused(rules: str) -> None:
    with pytest.raises(WrongRule):
        armed({"GUILDMESH_FAILPOINTS": rules})


def test_production_is_never_armed() -> None:
    with pytest.raises(WrongRule, match="production"):
        armed({"GUILDMESH_FAILPOINTS": f"{CREATE}=crash", "GUILDMESH_PROFILE": "production"})


def test_there_are_enough_places() -> None:
    assert len(POINTS) >= 25
    assert all(point.meaning for point in POINTS.values())


def test_every_name_has_a_place_and_every_place_a_name() -> None:
    places = uses()
    assert sorted(POINTS.keys() - places.keys()) == []
    assert [name for name, times in places.items() if times != 1] == []


def uses() -> Counter[str]:
    """How often each name stands in the source of the services, outside of the registry; fails on a name that is not in it."""
    found: Counter[str] = Counter()
    for file in (ROOT / "services").rglob("*.py"):
        text = file.read_text()
        if "fail_point(" not in text or file.name == "failpoints.py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and node.value in POINTS:
                found[node.value] += 1
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fail_point":
                name = node.args[0]
                assert not isinstance(name, ast.Constant) or name.value in POINTS, f"{file}: {ast.unparse(node)}"
    return found
