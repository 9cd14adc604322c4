"""ListDeadLetters: a page of the dead letters of a queue (AIP-158)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from services.common.errors import InvalidPageToken
from services.common.ids import is_id
from services.common.pagination import decode_token, encode_token, page_size
from services.scheduler.domain.dead_letter import DeadLetter, LetterPlace
from services.scheduler.domain.dead_letter_filter import Conditions
from services.scheduler.domain.ports import DeadLetterStore


class ListDeadLetters:
    """Lists dead letters, the latest first."""

    def __init__(self, store: DeadLetterStore) -> None:
        self._store = store

    async def execute(
        self, tenant_id: str, queue: str, wanted: Conditions, requested: int, page_token: str
    ) -> tuple[Sequence[DeadLetter], str]:
        """A page and the token of the next one (empty on the last); raises InvalidPageToken."""
        conditions = [asdict(condition) for condition in wanted]
        arguments = {"tenant": tenant_id, "list": "dead_letters", "queue": queue, "filter": conditions}
        page = await self._store.list(tenant_id, queue, wanted, _place(decode_token(page_token, arguments)), page_size(requested))
        if page.next is None:
            return page.letters, ""
        return page.letters, encode_token(arguments, [page.next.fail_time.isoformat(), page.next.task_id])


def _place(cursor: Sequence[str] | None) -> LetterPlace | None:
    if cursor is None:
        return None
    if len(cursor) != 2 or not is_id(cursor[1]):
        raise InvalidPageToken
    try:
        moment = datetime.fromisoformat(cursor[0])
    except ValueError as error:
        raise InvalidPageToken from error
    if moment.tzinfo is None:
        raise InvalidPageToken
    return LetterPlace(moment, cursor[1])
