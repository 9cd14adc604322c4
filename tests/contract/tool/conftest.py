"""Every kind of sandbox, so that each test here runs over all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from services.tool.adapters.sandbox.bubblewrap import BubblewrapEngine
from services.tool.adapters.sandbox.docker_engine import DockerEngine
from services.tool.adapters.sandbox.engine import Engine
from services.tool.adapters.sandbox.pool import SandboxPool
from services.tool.domain.errors import SandboxUnavailable
from tests.support.requirements import missing, need_docker


@pytest.fixture(scope="session")
def bubblewrap() -> Iterator[Engine]:
    try:
        engine = BubblewrapEngine()
    except SandboxUnavailable as error:
        missing(f"bubblewrap does not work here: {error.__cause__}")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    need_docker()
    engine = DockerEngine()
    yield engine
    engine.close()


@pytest.fixture(params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)])
def engine(request: pytest.FixtureRequest) -> Engine:
    name = {"bubblewrap": "bubblewrap", "docker": "docker_engine"}[request.param]
    return request.getfixturevalue(name)  # type: ignore[no-any-return]


@pytest.fixture
async def sandbox(engine: Engine) -> AsyncIterator[SandboxPool]:
    pool = SandboxPool(shared(engine), concurrency=2, warm=0)
    yield pool
    await pool.close()


class _Shared:
    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.limits = engine.limits
        self.start = engine.start
        self.sweep = engine.sweep

    def close(self) -> None:
        """The session does."""


def shared(engine: Engine) -> Engine:
    """An engine that the session closes, not the pool of one test."""
    return _Shared(engine)
