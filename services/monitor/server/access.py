"""Who may use reflection and health from outside: anyone in development, an administrator in production."""

from __future__ import annotations

from services.common.context import current_call
from services.common.errors import RoleRequired, TokenRequired

GATEWAY = "gateway"
ROLES = ("admin", "operator")


class ProbeAccess:
    """The rule for one profile. Services of the mesh always may; the contracts' policies do not cover these methods."""

    def __init__(self, profile: str) -> None:
        self._open = profile == "development"

    def check(self) -> None:
        """Raises TokenRequired or RoleRequired when the current caller may not."""
        call = current_call()
        if self._open or call.peer != GATEWAY:
            return
        if call.principal.kind == "anonymous":
            raise TokenRequired
        if not call.principal.roles & set(ROLES):
            raise RoleRequired(*ROLES)
