"""What the processes of a cluster stand on: PostgreSQL and Kafka, shared or of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.embedded.parts.kafka import Kafka
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart


@dataclass
class Servers:
    """What the processes stand on."""

    database_url: str
    kafka: str
    postgres_part: RunningPart | None = None
    """given when it may be restarted."""
    kafka_part: RunningPart | None = None


def servers_of(postgres: RunningPart, kafka: RunningPart) -> Servers:
    """Servers that belong to one cluster alone."""
    assert isinstance(postgres.part, Postgres)
    assert isinstance(kafka.part, Kafka)
    return Servers(postgres.part.url, kafka.part.bootstrap_servers, postgres, kafka)


async def restart(part: RunningPart | None, *, kill: bool) -> None:
    """Restarts a server of the cluster's own."""
    assert part is not None, "this cluster shares its servers"
    await asyncio.to_thread(part.kill if kill else part.stop)
    await asyncio.to_thread(part.start)
