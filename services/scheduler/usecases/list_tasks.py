"""ListTasks: a page of the tenant's tasks, newest first (AIP-158)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from services.common.errors import InvalidPageToken
from services.common.ids import is_id
from services.common.pagination import decode_token, encode_token, page_size
from services.scheduler.domain.ports import TaskFilter, TaskReader
from services.scheduler.domain.task import Task


class ListTasks:
    """Lists tasks."""

    def __init__(self, reader: TaskReader) -> None:
        self._reader = reader

    async def execute(self, tenant_id: str, wanted: TaskFilter, requested: int, page_token: str) -> tuple[Sequence[Task], str]:
        """A page and the token of the next one (empty on the last); raises InvalidPageToken."""
        size, arguments = page_size(requested), {"tenant": tenant_id, **asdict(wanted)}
        cursor = decode_token(page_token, arguments)
        if cursor is not None and (len(cursor) != 1 or not is_id(cursor[0])):
            raise InvalidPageToken
        if wanted.parent_task_id is not None and not is_id(wanted.parent_task_id):
            return [], ""
        tasks = await self._reader.list(tenant_id, wanted, cursor[0] if cursor else None, size + 1)
        if len(tasks) <= size:
            return tasks, ""
        return tasks[:size], encode_token(arguments, [tasks[size - 1].task_id])
