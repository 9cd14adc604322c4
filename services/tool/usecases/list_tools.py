"""Lists tools, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.context import Principal
from services.common.pagination import decode_token, encode_token, page_size
from services.tool.domain.built_in import BUILT_IN
from services.tool.domain.model import Tool
from services.tool.domain.ports import ToolStore


@dataclass(frozen=True, slots=True)
class ListTools:
    """Use case of ToolService.ListTools."""

    tools: ToolStore

    async def __call__(self, caller: Principal, size: int, page_token: str) -> tuple[Sequence[Tool], str]:
        """The built-in tools and the tenant's by name, and the token of the next page or an empty text.

        Raises:
            InvalidPageToken: the token is not of this list.
        """
        scope = {"list": "tools", "tenant": caller.tenant_id}
        cursor = decode_token(page_token, scope)
        after = cursor[0] if cursor else ""
        limit = page_size(size)
        own = await self.tools.list_after(caller.tenant_id, after, limit + 1)
        built_in = [tool for name, tool in BUILT_IN.items() if name > after]
        found = sorted([*own, *built_in], key=lambda tool: tool.tool_name)
        page = found[:limit]
        return page, encode_token(scope, [page[-1].tool_name]) if len(found) > limit else ""
