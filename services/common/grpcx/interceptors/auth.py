"""Stage "auth": who calls, and whether the method's policy lets them."""

from __future__ import annotations

import asyncio
import time

from services.common.context import ANONYMOUS, CallContext, Principal, current_call, enter_call
from services.common.errors import CallerNotAllowed, RoleRequired, TokenRequired, WatchTicketRefused
from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage
from services.common.grpcx.principal import CLAIMS_KEY, PRINCIPAL_KEY, claims_expiry, claims_principal, decode_principal

GATEWAY = "gateway"


class AuthStage(PassingStage):
    """Checks the connection's certificate, then the end caller."""

    name = "auth"
    after: tuple[str, ...] = ("errors",)

    def enter(self, call: ServerCall) -> None:
        """Refuses whom the policy does not let in.

        Raises:
            CallerNotAllowed: the certificate is not one of the policy's callers.
            TokenRequired: no verified end caller.
            RoleRequired: the end caller has none of the roles.
            WatchTicketRefused: the end caller has a ticket for a task's events, and this method does not give them.
        """
        policy = call.policy
        current = current_call()
        if not current.peer or (policy.callers and current.peer not in policy.callers):
            raise CallerNotAllowed(current.peer or "nobody", policy.method)
        principal = _principal(call, current.peer)
        if policy.access == "authenticated" and principal.kind == "anonymous":
            raise TokenRequired
        if principal.watches and not policy.watch_ticket:
            raise WatchTicketRefused(principal.watches)
        # A service is held by its certificate and the policy's callers; roles are for people.
        if policy.roles and principal.kind != "service" and not policy.roles & principal.roles:
            raise RoleRequired(*sorted(policy.roles))
        enter_call(
            CallContext(
                request_id=current.request_id,
                principal=principal,
                peer=current.peer,
                traceparent=current.traceparent,
                deadline=current.deadline,
                token_ends=_token_ends(call, current.peer),
            )
        )


def _token_ends(call: ServerCall, peer: str) -> float | None:
    """When the end caller's token ends, by this process's monotonic clock; only the gateway's word counts."""
    expiry = claims_expiry(call.metadata.get(CLAIMS_KEY, "")) if peer == GATEWAY else None
    return None if expiry is None else asyncio.get_running_loop().time() + expiry - time.time()


def _principal(call: ServerCall, peer: str) -> Principal:
    """The end caller: from the gateway its verified claims, from a service whom it acts for, or the service itself."""
    if peer == GATEWAY:
        return claims_principal(call.metadata.get(CLAIMS_KEY, "")) or ANONYMOUS
    handed_on = call.metadata.get(PRINCIPAL_KEY)
    if handed_on is None:
        return Principal(subject=f"service:{peer}", tenant_id="", roles=frozenset(), kind="service")
    return decode_principal(handed_on) or ANONYMOUS
