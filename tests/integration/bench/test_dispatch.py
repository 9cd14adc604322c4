"""The prototypes of the dispatch bench keep limits, and its checker notices one that does not."""

from __future__ import annotations

import pytest

from bench.dispatch import run, schema
from bench.dispatch.connection import connect
from bench.dispatch.loads import CONTENDED
from bench.dispatch.owner import Refused, start_granted
from bench.dispatch.statements import BY_KEY
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


async def test_a_start_by_an_epoch_that_is_over_is_refused(server: Postgres, template: str) -> None:
    url = schema.make_database(server, template, 1)
    connection = await connect(url, BY_KEY)
    try:
        first, second = [row[0] for row in await connection.fetch("SELECT task_id::text FROM tasks LIMIT 2")]

        assert len(await start_granted(connection, [(first, 0)], {0: 0}, "old")) == 1
        await connection.execute("UPDATE dispatch_epochs SET epoch = epoch + 1")
        with pytest.raises(Refused):
            await start_granted(connection, [(second, 0)], {0: 0}, "old")

        assert await connection.fetchval("SELECT count(*) FROM tasks WHERE state = 2") == 1
        assert len(await start_granted(connection, [(first, 0), (second, 0)], {0: 1}, "new")) == 1
    finally:
        await connection.close()
        schema.drop_database(server, url)
