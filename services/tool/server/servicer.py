"""ToolService's methods; the contract documents each."""

from __future__ import annotations

from dataclasses import dataclass

from guildmesh.tool.v1 import tool_service_pb2 as pb
from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.tool.server.convert import (
    call_from_proto,
    executed_to_proto,
    tool_from_proto,
    tool_to_proto,
    usage_to_proto,
)
from services.tool.usecases.create_tool import CreateTool
from services.tool.usecases.execute_tool import ExecuteTool
from services.tool.usecases.get_tool import GetTool
from services.tool.usecases.list_tool_usages import ListToolUsages
from services.tool.usecases.list_tools import ListTools


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicer calls."""

    create_tool: CreateTool
    get_tool: GetTool
    list_tools: ListTools
    execute_tool: ExecuteTool
    list_tool_usages: ListToolUsages


class ToolServicer(pb_grpc.ToolServiceServicer):
    """Turns messages into calls of use cases and back."""

    def __init__(self, use_cases: UseCases) -> None:
        self._use_cases = use_cases

    async def CreateTool(self, request: pb.CreateToolRequest, context: object) -> pb.Tool:
        """See the contract."""
        tool = await self._use_cases.create_tool(current_call().principal, tool_from_proto(request.tool))
        return tool_to_proto(tool)

    async def GetTool(self, request: pb.GetToolRequest, context: object) -> pb.Tool:
        """See the contract."""
        return tool_to_proto(await self._use_cases.get_tool(current_call().principal, request.tool_name))

    async def ListTools(self, request: pb.ListToolsRequest, context: object) -> pb.ListToolsResponse:
        """See the contract."""
        caller = current_call().principal
        tools, next_page_token = await self._use_cases.list_tools(caller, request.page_size, request.page_token)
        return pb.ListToolsResponse(tools=map(tool_to_proto, tools), next_page_token=next_page_token)

    async def ExecuteTool(self, request: pb.ExecuteToolRequest, context: object) -> pb.ExecuteToolResponse:
        """See the contract."""
        executed = await self._use_cases.execute_tool(current_call().principal, call_from_proto(request))
        return executed_to_proto(executed)

    async def ListToolUsages(self, request: pb.ListToolUsagesRequest, context: object) -> pb.ListToolUsagesResponse:
        """See the contract."""
        usages, next_page_token = await self._use_cases.list_tool_usages(
            current_call().principal, request.page_size, request.page_token, request.task_id
        )
        return pb.ListToolUsagesResponse(tool_usages=map(usage_to_proto, usages), next_page_token=next_page_token)
