"""Clients of a real Kafka from their start to their end, whoever is cut off meanwhile."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from services.common.kafka.clients import running_client

CLIENTS = [AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient]


async def open_for(client: Any, seconds: float = 3600) -> None:
    async with running_client(client, start_seconds=5, stop_seconds=1):
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("make", CLIENTS)
async def test_who_is_cut_off_in_a_start_leaves_no_connection_open(kafka_bootstrap_servers: str, make: Any) -> None:
    with warnings.catch_warnings():
        # A connection that is left says so when it is collected.
        warnings.simplefilter("error")
        for step in range(40):
            opening = asyncio.create_task(open_for(make(bootstrap_servers=kafka_bootstrap_servers)))
            # Not 0: who is cut off before it has begun has no client.
            await asyncio.sleep(0.0002 * (step + 1))
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            del opening
        gc.collect()


@pytest.mark.parametrize("make", CLIENTS)
async def test_no_broker_is_an_error_and_no_wait(make: Any) -> None:
    async with asyncio.timeout(4):
        with pytest.raises(KafkaError):
            await open_for(make(bootstrap_servers="127.0.0.1:1"))


@pytest.mark.parametrize("make", CLIENTS)
async def test_a_broker_that_says_nothing_is_given_up(make: Any) -> None:
    over = asyncio.Event()

    async def hears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        over.set()

    silent = await asyncio.start_server(hears, "127.0.0.1", 0)
    address = "{}:{}".format(*silent.sockets[0].getsockname())
    async with silent, asyncio.timeout(4):
        with pytest.raises(TimeoutError):
            async with running_client(make(bootstrap_servers=address), start_seconds=0.2, stop_seconds=0.2):
                pass
        gc.collect()
        await over.wait()


async def test_a_stop_that_waits_for_what_has_missed_its_cancellation_is_ended(kafka_bootstrap_servers: str) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap_servers)
    deaf = asyncio.Event()

    async def misses_one() -> None:
        # As asyncio.wait_for does until Python 3.12 when what it waits for is there in the same moment.
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            deaf.set()
        await asyncio.sleep(3600)

    async with asyncio.timeout(4):
        async with running_client(consumer, start_seconds=5, stop_seconds=0.2):
            consumer._client._sync_task.cancel()
            await asyncio.wait({consumer._client._sync_task})
            consumer._client._sync_task = asyncio.create_task(misses_one())
            connections = list(consumer._client._conns.values())
        assert deaf.is_set()
        assert not any(connection.connected() for connection in connections)
