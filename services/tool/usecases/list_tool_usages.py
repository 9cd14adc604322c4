"""Lists executions, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.context import Principal
from services.common.errors import InvalidPageToken
from services.common.ids import is_id
from services.common.pagination import decode_token, encode_token, page_size
from services.tool.domain.model import Execution
from services.tool.domain.ports import Ledger


@dataclass(frozen=True, slots=True)
class ListToolUsages:
    """Use case of ToolService.ListToolUsages."""

    ledger: Ledger

    async def __call__(self, caller: Principal, size: int, page_token: str, task_id: str) -> tuple[Sequence[Execution], str]:
        """Executions of the caller's tenant, newest first, and the token of the next page or an empty text.

        Raises:
            InvalidPageToken: the token is not of this list.
        """
        scope = {"list": "tool_usages", "tenant": caller.tenant_id, "task_id": task_id}
        cursor = decode_token(page_token, scope)
        before = cursor[0] if cursor else None
        if before is not None and not is_id(before):
            raise InvalidPageToken
        limit = page_size(size)
        found, more = await self.ledger.list_before(caller.tenant_id, task_id, before, limit)
        return found, encode_token(scope, [found[-1].execution_id]) if more else ""
