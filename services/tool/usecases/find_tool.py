"""The tool of a name, built in or the tenant's."""

from __future__ import annotations

from services.tool.domain.built_in import BUILT_IN
from services.tool.domain.errors import ToolNotFound
from services.tool.domain.model import Tool
from services.tool.domain.ports import ToolStore


async def find_tool(tools: ToolStore, tenant_id: str, tool_name: str) -> Tool:
    """The tool that the tenant sees under `tool_name`; raises ToolNotFound."""
    tool = BUILT_IN.get(tool_name) or await tools.get(tenant_id, tool_name)
    if tool is None:
        raise ToolNotFound(tool_name)
    return tool
