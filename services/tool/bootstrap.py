"""Where the parts of tool are chosen and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from guildmesh.tool.v1.tool_service_pb2_grpc import add_ToolServiceServicer_to_server

from services.common.db.database import open_database
from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDatabase, EngineDriver
from services.common.db.listener import Listener
from services.common.grpcx.channel import open_channel
from services.common.grpcx.server import Registration
from services.common.ids import new_id
from services.common.lanes import Ownership
from services.common.service import Service
from services.tool.adapters.event_log import SchedulerEventLog
from services.tool.adapters.sandbox.choice import ChosenSandbox, engines_for
from services.tool.adapters.schema_checker import ProcessSchemaChecker
from services.tool.adapters.usage_topic import KafkaUsageTopic
from services.tool.domain.lanes import CHANNEL
from services.tool.server.servicer import ToolServicer, UseCases
from services.tool.settings import ToolSettings
from services.tool.storage.engine.leases import PostgresLeases
from services.tool.storage.engine.outboxes import PostgresLogOutbox, PostgresUsageOutbox
from services.tool.storage.ledger import PostgresLedger
from services.tool.storage.tools import PostgresTools
from services.tool.usecases.create_tool import CreateTool
from services.tool.usecases.execute_tool import ExecuteTool
from services.tool.usecases.get_tool import GetTool
from services.tool.usecases.keep_lanes import KeepLanes
from services.tool.usecases.list_tool_usages import ListToolUsages
from services.tool.usecases.list_tools import ListTools
from services.tool.usecases.publish_usages import PublishUsages
from services.tool.usecases.send_events import SendEvents

SCHEMA = "tool"
# What tells others of executions needs few connections: the lanes, the two outboxes, and answers that wait for them.
_TELLING = {"db_pool_size": 4, "db_max_overflow": 0}


@asynccontextmanager
async def open_service(settings: ToolSettings) -> AsyncIterator[Service]:
    """The tool service over the database of `settings`, with the best sandbox that the machine has."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, SCHEMA))
        engine = EngineDriver(await stack.enter_async_context(open_driver(settings.model_copy(update=_TELLING), SCHEMA)))
        scheduler = await stack.enter_async_context(open_channel(settings, "scheduler"))
        lanes = KeepLanes(Ownership(engine, new_id(), settings.lane_lease_seconds), settings.lane_lease_seconds)
        send_events = SendEvents(PostgresLogOutbox(engine), SchedulerEventLog(scheduler), lanes, settings.outbox_poll_seconds)
        topic = KafkaUsageTopic(settings, settings.usage_topic, settings.replicas)
        publish_usages = PublishUsages(PostgresUsageOutbox(engine), topic, lanes, settings.outbox_poll_seconds)

        def woken(_payload: str = "") -> None:
            send_events.woken()
            publish_usages.woken()

        async def connected(_connection: object) -> None:
            woken()

        listener = Listener(settings.database_url.get_secret_value(), "guildmesh-tool-listen", {CHANNEL: woken}, connected)
        tools = PostgresTools(database)
        ledger = PostgresLedger(database, PostgresLeases(EngineDatabase(database)))
        schemas = ProcessSchemaChecker()
        sandbox = ChosenSandbox(
            engines_for(settings.sandbox, settings.docker_host), settings.sandbox_concurrency, settings.sandbox_warm
        )
        execute_tool = ExecuteTool(tools, ledger, schemas, sandbox, send_events)
        use_cases = UseCases(
            create_tool=CreateTool(tools, schemas),
            get_tool=GetTool(tools),
            list_tools=ListTools(tools),
            execute_tool=execute_tool,
            list_tool_usages=ListToolUsages(ledger),
        )
        try:
            yield Service(
                name="tool",
                registrations=[
                    Registration(add_ToolServiceServicer_to_server, ToolServicer(use_cases), "guildmesh.tool.v1.ToolService")
                ],
                background=[ledger.keep_leases, sandbox.keep, lanes.run, listener.run, send_events.run, publish_usages.run],
                checks={"database": database.check},
            )
        finally:
            # Runs are stopped, then recorded as cut off, while the database is still open.
            await sandbox.close()
            await execute_tool.finish()
            await schemas.close()
