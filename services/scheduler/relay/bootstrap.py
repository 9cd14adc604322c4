"""Where the parts of the relay are put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.ids import new_id
from services.common.kafka.connection import kafka_arguments
from services.common.lanes import Ownership
from services.common.service import Service
from services.scheduler.adapters.listener import Listener
from services.scheduler.adapters.topics import check_kafka
from services.scheduler.relay.gauges import Gauges
from services.scheduler.relay.lag import Lag
from services.scheduler.relay.outbox import Outbox
from services.scheduler.relay.relay import Relay
from services.scheduler.relay.settings import RelaySettings


@asynccontextmanager
async def open_relay(settings: RelaySettings) -> AsyncIterator[Service]:
    """The relay over the scheduler's schema."""
    # A file that cannot be used is told at once; what is only away is waited for.
    kafka_arguments(settings)
    async with open_driver(settings, "scheduler") as database:
        engine = EngineDriver(database)
        relay = Relay(settings, Outbox(engine), Ownership(engine, new_id(), settings.lease_seconds))
        lag = Lag(engine, settings.late_seconds)
        listener = Listener(settings.database_url.get_secret_value(), relay.woken, "guildmesh-relay-listen")
        yield Service(
            name="relay",
            background=[listener.run, relay.run, Gauges(engine, lag, relay.has_first_lane).run],
            checks={"database": database.check, "kafka": partial(check_kafka, settings), "events": lag.check},
            admin_routes={"/lag": lag.route},
            serves_grpc=False,
        )
