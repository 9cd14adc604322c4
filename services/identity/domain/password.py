"""Rules for passwords."""

from __future__ import annotations

from dataclasses import dataclass

from services.identity.domain.errors import PasswordTooWeak

PRODUCTION_MIN_LENGTH = 12
"""Characters that the production profile asks for; NIST SP 800-63B asks for 8 or more, and for no rules on their kinds."""


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """How long a new password must be, in characters."""

    min_length: int = 1

    @classmethod
    def of_profile(cls, profile: str) -> PasswordPolicy:
        """Any length in development, 12 characters in production."""
        return cls(PRODUCTION_MIN_LENGTH if profile == "production" else 1)

    def check(self, password: str) -> None:
        """Raises PasswordTooWeak when `password` is too short."""
        if len(password) < self.min_length:
            raise PasswordTooWeak(self.min_length)
