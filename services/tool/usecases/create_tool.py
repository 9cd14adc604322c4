"""Registers a tool."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.common.errors import InvalidRequest
from services.tool.domain.built_in import BUILT_IN
from services.tool.domain.errors import ToolAlreadyExists, ToolSchemaInvalid
from services.tool.domain.model import Tool
from services.tool.domain.ports import SchemaChecker, ToolStore


@dataclass(frozen=True, slots=True)
class CreateTool:
    """Use case of ToolService.CreateTool."""

    tools: ToolStore
    schemas: SchemaChecker

    async def __call__(self, caller: Principal, tool: Tool) -> Tool:
        """Stores the tool for the caller's tenant.

        Raises:
            InvalidRequest: it has no source.
            ToolSchemaInvalid: its input_schema is not a JSON Schema of an object.
            ToolAlreadyExists: the name is taken.
        """
        if tool.tool_name in BUILT_IN:
            raise ToolAlreadyExists(tool.tool_name)
        if not tool.source.strip():
            raise InvalidRequest([("tool.source", "must hold Python that reads `arguments` and assigns `result`")])
        problem = await self.schemas.problem_of_schema(tool.input_schema)
        if problem is not None:
            raise ToolSchemaInvalid(tool.tool_name, problem)
        return await self.tools.create(caller.tenant_id, tool)
