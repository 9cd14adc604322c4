"""What of the texts of new tasks goes to Kafka, as their queues say when they are created."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from services.common.errors import DomainError
from services.scheduler.domain.event_content import EventContent
from services.scheduler.domain.event_key_errors import UserErased
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.storage.changelog import ChangeLog


async def choose_contents(
    connection: asyncpg.Connection, log: ChangeLog, items: Sequence[NewTask], answers: list[Task | DomainError | None]
) -> None:
    """Says of each new task what of its texts goes to Kafka; answers those of erased users, and those that lack their key."""
    contents = log.contents
    if contents is None or (contents.plain and not contents.erased and all(item.event_content is None for item in items)):
        return
    for place, item in enumerate(items):
        if answers[place] is None and (item.tenant_id, item.created_by) in contents.erased:
            answers[place] = UserErased(item.created_by)
    encrypted: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(items):
        chosen = (item.event_content or contents.default).at_least(contents.of(item.tenant_id, item.queue))
        item.event_content, item.event_key_id = chosen if chosen is not EventContent.PLAIN else None, None
        if chosen is EventContent.ENCRYPTED and answers[place] is None:
            encrypted.setdefault((item.tenant_id, item.created_by), []).append(place)
    if not encrypted:
        return
    for user, key in (await contents.keys.of_users(connection, encrypted.keys())).items():
        for place in encrypted[user]:
            if isinstance(key, DomainError):
                answers[place] = key
            else:
                items[place].event_key_id = key.key_id
                # It may be of this transaction, and then nobody else knows it yet.
                log.keys[key.key_id] = key
