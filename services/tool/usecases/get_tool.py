"""Gives one tool."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.tool.domain.model import Tool
from services.tool.domain.ports import ToolStore
from services.tool.usecases.find_tool import find_tool


@dataclass(frozen=True, slots=True)
class GetTool:
    """Use case of ToolService.GetTool."""

    tools: ToolStore

    async def __call__(self, caller: Principal, tool_name: str) -> Tool:
        """The tool; raises ToolNotFound."""
        return await find_tool(self.tools, caller.tenant_id, tool_name)
