"""The keys of users: one each, sealed with the mesh's master key, and gone for good once the user is erased.

A row without a key says that its user is erased; it stays, so that no other key is ever made for the user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import asyncpg
import structlog

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.common.ids import new_id
from services.common.key_cipher import CannotOpen
from services.common.master_keys import MasterKeys
from services.scheduler.domain.event_cipher import new_key
from services.scheduler.domain.event_content import EventKey
from services.scheduler.domain.event_key_errors import (
    EventKeyDestroyed,
    EventKeyNotFound,
    EventKeySealed,
    EventKeysNotSet,
    UserErased,
)
from services.scheduler.storage.sealing import PAGE, SealedPage

log = structlog.get_logger(__name__)

User = tuple[str, str]
"""tenant and username."""
_MOST_KNOWN = 10_000

_COLUMNS = "tenant_id, username, key_id::text, sealed_key, master_key_id, create_time"
_OF_USERS = f"""
SELECT {_COLUMNS} FROM event_keys WHERE (tenant_id, username) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""  # noqa: S608 - constants only
# In the order of the key, so that two that make keys for the same users wait for each other instead of deadlocking.
_MAKE = """
INSERT INTO event_keys (tenant_id, username, key_id, sealed_key, master_key_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[], $5::text[]) AS k (tenant_id, username) ORDER BY 1, 2
ON CONFLICT DO NOTHING
"""
_BY_ID = f"SELECT {_COLUMNS} FROM event_keys WHERE key_id = ANY($1::uuid[])"  # noqa: S608 - constants only
_ERASE = """
INSERT INTO event_keys (tenant_id, username, key_id, erase_time) VALUES ($1, $2, $3, clock_timestamp())
ON CONFLICT (tenant_id, username) DO UPDATE SET sealed_key = NULL, master_key_id = NULL,
  erase_time = COALESCE(event_keys.erase_time, excluded.erase_time)
RETURNING erase_time
"""
# They would go on creating tasks in the user's name; as Schedule.stop does it.
_PAUSE_SCHEDULES = """
UPDATE schedules SET paused = true, next_time = NULL, wake_time = NULL, buffered_time = NULL,
  last_error = 'The user who created it is erased; create it anew as another user.', version = version + 1,
  update_time = clock_timestamp()
WHERE tenant_id = $1 AND created_by = $2 AND NOT paused
"""
# As the triggers of `queues` tell a change: everybody reads again what belongs to the tenant.
_TELL = "SELECT pg_notify('guildmesh_dispatch', '@' || $1)"
_SEALED_OTHERWISE = f"""
SELECT {_COLUMNS} FROM event_keys WHERE sealed_key IS NOT NULL AND master_key_id <> $1 AND key_id > $2
ORDER BY key_id LIMIT {PAGE} FOR UPDATE
"""  # noqa: S608 - constants only
_SEAL_ANEW = """
UPDATE event_keys e SET sealed_key = c.sealed_key, master_key_id = $3
FROM unnest($1::uuid[], $2::bytea[]) AS c (key_id, sealed_key) WHERE e.key_id = c.key_id
"""


class EventKeys:
    """Makes, gives and destroys keys. What was unsealed once is remembered, so that a busy queue asks for nothing."""

    name = "event_keys"
    """of the table that `Sealing` seals anew."""

    def __init__(self, database: EngineDriver, masters: MasterKeys) -> None:
        """Without `masters` there are no keys."""
        self._database = database
        self._masters = masters
        self._known: dict[str, EventKey] = {}
        self._of_users: dict[User, EventKey] = {}

    @property
    def available(self) -> bool:
        """Whether keys can be made."""
        return bool(self._masters)

    async def of_users(self, connection: asyncpg.Connection, users: Collection[User]) -> Mapping[User, EventKey | DomainError]:
        """The key of each user, made where there is none; or EventKeysNotSet, EventKeySealed or UserErased.

        In the caller's transaction: what it makes is there when the transaction is committed.
        """
        if not self._masters:
            return dict.fromkeys(users, EventKeysNotSet())
        found: dict[User, EventKey | DomainError] = {user: self._of_users[user] for user in users if user in self._of_users}
        missing = sorted(set(users) - found.keys())
        for attempt in range(2):
            if not missing:
                break
            rows = await connection.fetch(_OF_USERS, *_columns(missing))
            for row in rows:
                try:
                    # That a row of this transaction is there is not known before the commit, so it is not remembered.
                    key = self._unseal(row, remember=attempt == 0)
                except DomainError as error:
                    found[row["tenant_id"], row["username"]] = error
                else:
                    found[row["tenant_id"], row["username"]] = key
            missing = [user for user in missing if user not in found]
            if missing and attempt == 0:
                ids = [new_id() for _ in missing]
                sealed = [self._masters.seal(key_id, new_key()) for key_id in ids]
                masters = [self._masters.newest_id] * len(ids)
                await connection.execute(_MAKE, *_columns(missing), ids, sealed, masters)
        return found

    async def by_id(self, connection: asyncpg.Connection, key_ids: Iterable[str]) -> Mapping[str, EventKey]:
        """The keys with these ids, but for those that are destroyed or cannot be unsealed."""
        wanted = set(key_ids)
        found = {key_id: self._known[key_id] for key_id in wanted if key_id in self._known}
        if missing := wanted - found.keys():
            for row in await connection.fetch(_BY_ID, list(missing)):
                try:
                    found[row["key_id"]] = self._unseal(row, remember=True)
                except UserErased:
                    continue
                except DomainError as error:
                    log.error("event_key_not_unsealed", key=row["key_id"], error=error.message)
        return found

    async def get(self, tenant_id: str, key_id: str) -> EventKey:
        """A key of a tenant, as it is in the database now.

        Raises:
            EventKeyNotFound, EventKeyDestroyed, EventKeysNotSet, EventKeySealed.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_BY_ID, [key_id])
        if row is None or row["tenant_id"] != tenant_id:
            raise EventKeyNotFound(key_id)
        try:
            return self._unseal(row, remember=False)
        except UserErased as error:
            raise EventKeyDestroyed(key_id, row["username"]) from error

    async def erase(self, tenant_id: str, username: str) -> datetime:
        """Destroys the key of a user and any chance of another, and pauses the user's schedules; gives when that was done."""
        async with self._database.transaction() as connection:
            erased: datetime = await connection.fetchval(_ERASE, tenant_id, username, new_id())
            await connection.execute(_PAUSE_SCHEDULES, tenant_id, username)
            await connection.execute(_TELL, tenant_id)
        self.forget([(tenant_id, username)])
        return erased

    def forget(self, users: Iterable[User]) -> None:
        """Forgets the keys of users who are erased."""
        for user in users:
            if (key := self._of_users.pop(user, None)) is not None:
                self._known.pop(key.key_id, None)

    async def seal_page(self, connection: asyncpg.Connection, after: str) -> SealedPage:
        """See SealedTable."""
        if not self._masters:
            return SealedPage()
        rows = await connection.fetch(_SEALED_OTHERWISE, self._masters.newest_id, after)
        anew = []
        for row in rows:
            try:
                key = self._unseal(row, remember=False)
            except EventKeySealed:
                continue
            anew.append((key.key_id, self._masters.seal(key.key_id, key.key)))
        if anew:
            await connection.execute(_SEAL_ANEW, *_columns(anew), self._masters.newest_id)
        return SealedPage(len(anew), len(rows) - len(anew), rows[-1]["key_id"] if len(rows) == PAGE else None)

    def _unseal(self, row: asyncpg.Record, *, remember: bool) -> EventKey:
        """The key in a row; raises UserErased, EventKeysNotSet or EventKeySealed."""
        tenant_id, username, key_id, sealed, master_key_id, create_time = row
        if sealed is None:
            raise UserErased(username)
        if not self._masters:
            raise EventKeysNotSet
        try:
            key = EventKey(key_id, tenant_id, username, self._masters.open(master_key_id, key_id, sealed), create_time)
        except CannotOpen as error:
            raise EventKeySealed(key_id) from error
        if remember:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
                self._of_users.clear()
            self._known[key_id] = self._of_users[tenant_id, username] = key
        return key


def _columns(pairs: Collection[tuple[str, object]]) -> tuple[list[object], list[object]]:
    return [first for first, _ in pairs], [second for _, second in pairs]
