"""Schedules beside the load of a client, whose runs are due while things break; and what is wrong with their runs then."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psycopg2

from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.support.due import all_started, due_schedules, unfair_runs

_ALL_SECONDS = 45.0


def clock_of(client: Client) -> str:
    """The tenant of the schedules: what they create nobody has asked for."""
    return f"{client.tenant}-clock"


async def add_clocks(cluster: Cluster, client: Client, number: int) -> None:
    """Adds schedules with runs that are due; none when PostgreSQL does not answer now."""
    with contextlib.suppress(psycopg2.Error):
        await asyncio.to_thread(due_schedules, cluster.servers.database_url, number, clock_of(client))


async def wrong_clocks(cluster: Cluster, client: Client) -> list[str]:
    """What is wrong with their runs, once all have started."""
    query, tenant = cluster.tables.query, clock_of(client)
    end = time.monotonic() + _ALL_SECONDS
    while not await asyncio.to_thread(all_started, query, tenant) and time.monotonic() < end:  # noqa: ASYNC110 - it is elsewhere
        await asyncio.sleep(0.1)
    return await asyncio.to_thread(unfair_runs, query, tenant)
