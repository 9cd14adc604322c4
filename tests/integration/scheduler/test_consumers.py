"""The example consumers read the events as anyone may, each with its field's own client, and go on where they were."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.scheduler.bootstrap import open_service
from services.scheduler.relay.settings import RelaySettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    own_settings,
    reading,
    relay_settings,
    relaying,
)
from tests.support.example_consumers import BUILDS
from tests.support.service import running

pytestmark = [pytest.mark.toolchain, pytest.mark.timeout(400)]


def as_line(record: Any) -> dict[str, Any]:
    """What a consumer is to print of a record."""
    return {
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key.decode(),
        "headers": {name: value.decode() for name, value in record.headers},
        "event": MessageToDict(TaskEvent.FromString(record.value), preserving_proto_field_name=True),
    }


def as_console_line(record: Any) -> str:
    headers = ",".join(f"{name}:{value.decode()}" for name, value in record.headers)
    return f"Partition:{record.partition}\tOffset:{record.offset}\t{headers}\t{record.key.decode()}"


@contextlib.asynccontextmanager
async def consuming(command: list[str], settings: RelaySettings, group: str) -> AsyncIterator[asyncio.StreamReader]:
    """A consumer of the events topic, which is told to stop at the end."""
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "TOPIC": settings.events_topic,
        "GROUP": group,
    }
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stdout is not None
    try:
        yield process.stdout
        process.terminate()
        async with asyncio.timeout(30):
            rest, errors = await process.communicate()
        assert rest == b"", "it read more than there was"
        assert process.returncode in (0, 130, 143, -15), errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def lines(output: asyncio.StreamReader, count: int, language: str) -> list[Any]:
    async with asyncio.timeout(60):
        found = [(await output.readline()).decode() for _ in range(count)]
    return sorted(
        (line.strip() for line in found) if language == "console" else (json.loads(line) for line in found),
        key=str,
    )


@pytest.mark.parametrize("language", BUILDS)
async def test_a_consumer_reads_the_events_with_their_headers_and_goes_on_where_it_was(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    tmp_path: Path,
    language: str,
) -> None:
    command = await asyncio.to_thread(BUILDS[language], tmp_path)
    relay, group = relay_settings(), unique("group")
    shown = as_console_line if language == "console" else as_line
    async with (
        running(open_service, own_settings(), scheduler_tls) as server,
        relaying(relay),
        reading(relay, relay.events_topic) as reader,
    ):
        scheduler = Scheduler(server)

        async def a_task(result: Any) -> None:
            await scheduler.create("tell Kafka", labels={"team": "red"})
            async with scheduler.worker() as worker:
                await worker.complete(await worker.lease(), result)

        await a_task({"words": ["ä", "\n"], "count": 42})
        await scheduler.cancel((await scheduler.create()).task_id)
        first = list(await reader.until(lambda found: len(found) >= 5))
        async with consuming(command, relay, group) as output:
            assert await lines(output, 5, language) == sorted(map(shown, first), key=str)
        await a_task("done")
        await reader.until(lambda found: len(found) >= 8)
        async with consuming(command, relay, group) as output:
            assert await lines(output, 3, language) == sorted(map(shown, reader.records[5:]), key=str)
