"""Lets a browser follow one task, without a token in its URL that could do more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from services.common.context import Principal
from services.identity.domain.ports import TokenSigner
from services.identity.domain.token import Grant, WatchTicket

TICKET_LIFETIME = timedelta(seconds=60)
"""A URL lands in histories and in logs of proxies; what is in it is worth nothing soon."""


@dataclass(frozen=True, slots=True)
class CreateWatchTicket:
    """Use case of IdentityService.CreateWatchTicket."""

    signer: TokenSigner
    longest: timedelta
    """for the cookie of a caller without a token, such as a service that acts for somebody."""

    async def __call__(self, caller: Principal, task_id: str, token_left: timedelta | None) -> WatchTicket:
        """A ticket and a cookie for the events of a task, neither of which outlives the caller's token (`token_left`)."""
        left = max(self.longest if token_left is None else min(token_left, self.longest), timedelta(seconds=1))

        def grant(lifetime: timedelta) -> Grant:
            return Grant(caller.subject, caller.tenant_id, (), lifetime, task_id)

        return WatchTicket(await self.signer.sign(grant(min(left, TICKET_LIFETIME))), await self.signer.sign(grant(left)))
