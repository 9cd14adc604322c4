"""The prototypes of the dispatch bench keep limits, and its checker notices one that does not."""

from __future__ import annotations

import pytest

from bench.dispatch import run, schema
from bench.dispatch.loads import CONTENDED
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart


@pytest.fixture(scope="module")
def server(postgres_server: RunningPart) -> Postgres:
    assert isinstance(postgres_server.part, Postgres)
    return postgres_server.part


@pytest.fixture(scope="module")
def template(server: Postgres) -> str:
    return schema.make_template(server, CONTENDED)


@pytest.mark.parametrize("prototype", ["race", "single"])
def test_a_prototype_keeps_limits_that_many_want(server: Postgres, template: str, prototype: str) -> None:
    measured = run.measure(server, template, CONTENDED, prototype)

    assert measured.exceeded == 0
    assert measured.per_s > 10


def test_the_checker_notices_replicas_that_do_not_wait_for_each_other(server: Postgres, template: str) -> None:
    assert run.measure(server, template, CONTENDED, "unlocked").exceeded > 0
