"""Stage "validation": every message that comes in obeys its contract (requirement row 3)."""

from __future__ import annotations

from typing import Any

from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage
from services.common.validation import validate


class ValidationStage(PassingStage):
    """Refuses a message that breaks a rule of its contract; strips HTML from plain text."""

    name = "validation"
    after: tuple[str, ...] = ("errors", "auth")

    def on_message(self, call: ServerCall, message: Any) -> None:
        """Validates the message.

        Raises:
            InvalidRequest: one or more fields break their rules.
        """
        validate(message)
