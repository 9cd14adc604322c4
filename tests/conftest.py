"""Fixtures that every test may ask for. Servers are started when first asked for and serve the whole session."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from services.embedded.parts.kafka import Kafka
from services.embedded.parts.postgres import Postgres
from services.embedded.parts.redis import Redis
from services.embedded.running import RunningPart
from tests.support.example_workers import BUILDS
from tests.support.scheduling import TestScheduling, place_of
from tests.support.servers import running_kafka, running_postgres, running_redis

# How long one example takes says more about what else the machine does than about the code.
settings.register_profile("guildmesh", deadline=None)
settings.load_profile("guildmesh")

# A shell that runs us in the background has us ignore Ctrl-C, and so would every program that a test starts and stops with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TestScheduling:
    # In the order above, not by how many tests a file has.
    config.option.loadscopereorder = False
    return TestScheduling(config, log)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[RunningPart]:
    """The session's PostgreSQL; do not stop it, take `running_postgres` of tests.support.servers for that."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: RunningPart) -> str:
    """URL of the session's database, shared by all tests: each uses tenants and ids of its own."""
    assert isinstance(postgres_server.part, Postgres)
    return postgres_server.part.url


@pytest.fixture
def empty_database_url(postgres_server: RunningPart) -> str:
    """URL of a new, empty database (with the extension `vector`) on the session's server; roles are shared."""
    assert isinstance(postgres_server.part, Postgres)
    return postgres_server.part.create_database(f"test_{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of the session's Redis; tests use keys of their own."""
    with running_redis() as server:
        assert isinstance(server.part, Redis)
        yield server.part.url


@pytest.fixture(scope="session")
def kafka_bootstrap_servers() -> Iterator[str]:
    """Address of the session's Kafka; tests use topics of their own."""
    with running_kafka() as server:
        assert isinstance(server.part, Kafka)
        yield server.part.bootstrap_servers


@pytest.fixture(scope="session")
def worker_commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The command that runs the example worker of each language; built once."""
    return {language: build(tmp_path_factory.mktemp(language)) for language, build in BUILDS.items()}
