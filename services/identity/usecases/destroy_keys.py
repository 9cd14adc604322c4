"""Has the scheduler destroy the keys of erased users, again and again until it has answered."""

from __future__ import annotations

import asyncio

import structlog

from services.common.errors import DomainError
from services.identity.domain.ports import Erasures, EventKeys
from services.identity.domain.user import User

log = structlog.get_logger(__name__)

_BATCH = 100
_LOOK_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0


class DestroyKeys:
    """Who is still to be told of stands in the row of the user, so nothing is forgotten when a process dies."""

    def __init__(self, erasures: Erasures, keys: EventKeys) -> None:
        self._erasures = erasures
        self._keys = keys

    async def of(self, user: User) -> User:
        """Destroys the keys of one user; raises DomainError when that is not known to be done."""
        time = await self._keys.erase(user.tenant_id, user.username)
        return await self._erasures.done(user, time)

    async def run(self) -> None:
        """Goes on with what is left, until cancelled; survives the scheduler and the database being away."""
        pause = _RETRY_SECONDS
        while True:
            try:
                users = await self._erasures.open(_BATCH)
                for user in users:
                    await self.of(user)
                pause = _RETRY_SECONDS
                if len(users) < _BATCH:
                    await asyncio.sleep(_LOOK_SECONDS)
                continue
            except DomainError as error:
                log.warning("keys_not_destroyed", error=error.message, retry_in=pause)
            except Exception:
                log.exception("keys_not_destroyed", retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)
