"""Where the parts of tool are chosen and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guildmesh.tool.v1.tool_service_pb2_grpc import add_ToolServiceServicer_to_server

from services.common.db.database import open_database
from services.common.db.engine_role import EngineDatabase
from services.common.grpcx.server import Registration
from services.common.service import Service
from services.tool.adapters.sandbox.choice import ChosenSandbox, engines_for
from services.tool.adapters.schema_checker import ProcessSchemaChecker
from services.tool.server.servicer import ToolServicer, UseCases
from services.tool.settings import ToolSettings
from services.tool.storage.engine.leases import PostgresLeases
from services.tool.storage.ledger import PostgresLedger
from services.tool.storage.tools import PostgresTools
from services.tool.usecases.create_tool import CreateTool
from services.tool.usecases.execute_tool import ExecuteTool
from services.tool.usecases.get_tool import GetTool
from services.tool.usecases.list_tool_usages import ListToolUsages
from services.tool.usecases.list_tools import ListTools

SCHEMA = "tool"


@asynccontextmanager
async def open_service(settings: ToolSettings) -> AsyncIterator[Service]:
    """The tool service over the database of `settings`, with the best sandbox that the machine has."""
    async with open_database(settings, SCHEMA) as database:
        tools = PostgresTools(database)
        ledger = PostgresLedger(database, PostgresLeases(EngineDatabase(database)))
        schemas = ProcessSchemaChecker()
        sandbox = ChosenSandbox(
            engines_for(settings.sandbox, settings.docker_host), settings.sandbox_concurrency, settings.sandbox_warm
        )
        execute_tool = ExecuteTool(tools, ledger, schemas, sandbox)
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
                background=[ledger.keep_leases, sandbox.keep],
                checks={"database": database.check},
            )
        finally:
            # Runs are stopped, then recorded as cut off, while the database is still open.
            await sandbox.close()
            await execute_tool.finish()
            await schemas.close()
