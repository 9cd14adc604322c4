"""What only a Docker engine can leave behind or take away."""

from __future__ import annotations

import asyncio
import threading
import time

import docker
import pytest

from services.tool.adapters.sandbox.answer import outcome_of, payload
from services.tool.adapters.sandbox.choice import ChosenSandbox
from services.tool.adapters.sandbox.docker_engine import LABEL, OWNER, DockerEngine
from services.tool.adapters.sandbox.pool import SandboxPool
from services.tool.domain.errors import SandboxLost, SandboxUnavailable
from services.tool.domain.model import Program
from tests.contract.tool.conditions import until
from tests.contract.tool.conftest import shared

pytestmark = pytest.mark.docker


@pytest.fixture
def client(docker_engine: DockerEngine) -> docker.DockerClient:
    return docker_engine._client


def containers(engine: DockerEngine) -> set[str]:
    """The containers of one engine object; others on this machine have their own."""
    found = engine._client.api.containers(all=True, filters={"label": f"{OWNER}={engine.owner}"})
    return {str(container["Id"]) for container in found}


@pytest.mark.parametrize("source", ["print(1)", "while True: pass", "x = = 1", "x = bytearray(10**10)"])
async def test_the_container_is_removed_whatever_the_program_does(
    docker_engine: DockerEngine, client: docker.DockerClient, source: str
) -> None:
    before = containers(docker_engine)
    program = Program(source, None, 1.5)
    started = await asyncio.to_thread(docker_engine.start)
    assert len(containers(docker_engine) - before) == 1
    await asyncio.to_thread(started.run, payload(program, {}), program.time_limit)
    await asyncio.to_thread(started.discard)
    assert containers(docker_engine) == before


@pytest.mark.parametrize("source", ["print(1)", "while True: pass"])
async def test_a_pool_removes_every_container_it_used(docker_engine: DockerEngine, source: str) -> None:
    before = containers(docker_engine)
    pool = SandboxPool(shared(docker_engine), concurrency=1, warm=0)
    try:
        await pool.run(Program(source, None, 1.5))
    finally:
        await pool.close()
    assert containers(docker_engine) == before


def test_a_container_is_closed_in_every_way(docker_engine: DockerEngine, client: docker.DockerClient) -> None:
    before = containers(docker_engine)
    started = docker_engine.start()
    (name,) = containers(docker_engine) - before
    attributes = client.api.inspect_container(name)
    host, config = attributes["HostConfig"], attributes["Config"]
    started.discard()
    assert host["Memory"] == host["MemorySwap"] == 512 * 1024 * 1024
    assert host["NanoCpus"] == 500_000_000
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["PidsLimit"] == 64
    assert host["LogConfig"]["Type"] == "none"
    assert not host["Binds"]
    assert not host["Privileged"]
    assert config["User"] == "65534:65534"
    assert config["Image"].startswith("guildmesh-sandbox")
    assert containers(docker_engine) == before


def test_a_sweep_removes_leftovers_and_nothing_that_may_be_in_use(
    docker_engine: DockerEngine, client: docker.DockerClient
) -> None:
    def create(expires: float) -> str:
        container = client.containers.create(
            "guildmesh-sandbox", ["sleep", "60"], labels={LABEL: str(int(expires))}, network_mode="none"
        )
        return str(container.id)

    old, live = create(time.time() - 1), create(time.time() + 60)
    try:
        docker_engine.sweep()
        found = {str(container["Id"]) for container in client.api.containers(all=True, filters={"label": LABEL})}
        assert old not in found
        assert live in found
    finally:
        client.containers.get(live).remove(force=True)


async def test_a_waiting_container_is_used_once_and_the_rest_removed_at_the_end(
    docker_engine: DockerEngine, client: docker.DockerClient
) -> None:
    before = containers(docker_engine)
    pool = SandboxPool(shared(docker_engine), concurrency=2, warm=1)
    try:
        await pool.sweep()
        await until(lambda: pool.waiting == 1)
        (waiting,) = containers(docker_engine) - before
        assert (await pool.run(Program("result = 1", None, 10))).result == 1
        await until(lambda: waiting not in containers(docker_engine))
    finally:
        await pool.close()
    assert containers(docker_engine) == before


async def test_a_waiting_container_that_died_costs_the_caller_nothing(
    docker_engine: DockerEngine, client: docker.DockerClient
) -> None:
    before = containers(docker_engine)
    pool = SandboxPool(shared(docker_engine), concurrency=1, warm=1)
    try:
        await pool.sweep()
        await until(lambda: pool.waiting == 1)
        (waiting,) = containers(docker_engine) - before
        client.containers.get(waiting).remove(force=True)
        assert (await pool.run(Program("result = 1", None, 10))).result == 1
    finally:
        await pool.close()


async def test_a_container_that_is_taken_away_in_the_middle_is_never_told_as_a_success(
    docker_engine: DockerEngine, client: docker.DockerClient
) -> None:
    before = containers(docker_engine)
    started = docker_engine.start()
    (name,) = containers(docker_engine) - before
    program = Program("import time; time.sleep(30)", None, 30)
    timer = threading.Timer(1.0, lambda: client.containers.get(name).remove(force=True))
    timer.start()
    try:
        outcome = outcome_of(program, await asyncio.to_thread(started.run, payload(program, {}), 30.0))
    except SandboxLost:
        pass
    else:
        assert outcome.exit_code == 137
    timer.join()
    started.discard()
    assert containers(docker_engine) == before


def test_an_engine_that_does_not_answer_is_told_at_once() -> None:
    with pytest.raises(SandboxUnavailable):
        DockerEngine("tcp://127.0.0.1:1")


async def test_without_any_engine_code_is_refused_and_never_run_bare() -> None:
    def none() -> DockerEngine:
        raise SandboxUnavailable

    chosen = ChosenSandbox([none, none], concurrency=1, warm=0)
    with pytest.raises(SandboxUnavailable, match="start a Docker engine, or allow unprivileged user namespaces"):
        await chosen.run(Program("print(1)", None, 1))
    await chosen.close()
