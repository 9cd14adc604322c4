"""Exchanges a username and a password for a token (requirement row 2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from services.identity.domain.errors import InvalidCredentials
from services.identity.domain.ports import Logins, Passwords, TokenSigner
from services.identity.domain.token import Grant, Token


@dataclass(frozen=True, slots=True)
class IssueToken:
    """Use case of IdentityService.IssueToken."""

    logins: Logins
    passwords: Passwords
    signer: TokenSigner
    lifetime: timedelta

    async def __call__(self, username: str, password: str) -> Token:
        """A token for the user.

        Raises:
            InvalidCredentials: the username or the password is wrong, or the user is not active. All three take the same time.
        """
        login = await self.logins.find(username)
        verification = await self.passwords.verify(password, login.password_hash if login else None)
        if login is None or not verification.valid:
            raise InvalidCredentials
        if verification.new_hash is not None:
            await self.logins.replace_hash(login, verification.new_hash)
        user = login.user
        return await self.signer.sign(Grant(user.username, user.tenant_id, user.roles, self.lifetime))
