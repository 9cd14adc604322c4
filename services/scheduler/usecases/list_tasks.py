"""ListTasks: a page of the tenant's tasks (AIP-158)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from services.common.errors import InvalidPageToken
from services.common.ids import is_id
from services.common.pagination import decode_token, encode_token, page_size
from services.scheduler.domain.ports import Place, TaskReader
from services.scheduler.domain.task import Task
from services.scheduler.domain.task_filter import TaskFilter


class ListTasks:
    """Lists tasks."""

    def __init__(self, reader: TaskReader) -> None:
        self._reader = reader

    async def execute(self, tenant_id: str, wanted: TaskFilter, requested: int, page_token: str) -> tuple[Sequence[Task], str]:
        """A page and the token of the next one (empty on the last); raises InvalidPageToken."""
        arguments = {"tenant": tenant_id, **asdict(wanted)}
        after = _place(decode_token(page_token, arguments), by_finish_time=wanted.by_finish_time)
        if any(condition.field == "parent_task_id" and not is_id(str(condition.value)) for condition in wanted.conditions):
            return [], ""
        page = await self._reader.list(tenant_id, wanted, after, page_size(requested))
        return page.tasks, "" if page.next is None else encode_token(arguments, _cursor(page.next))


def _cursor(place: Place) -> list[str]:
    return [place.task_id] if place.finish_time is None else [place.task_id, place.finish_time.isoformat()]


def _place(cursor: Sequence[str] | None, *, by_finish_time: bool) -> Place | None:
    if cursor is None:
        return None
    if len(cursor) != 1 + by_finish_time or not is_id(cursor[0]):
        raise InvalidPageToken
    try:
        moment = datetime.fromisoformat(cursor[1]) if by_finish_time else None
    except ValueError as error:
        raise InvalidPageToken from error
    if moment is not None and moment.tzinfo is None:
        raise InvalidPageToken
    return Place(cursor[0], moment)
