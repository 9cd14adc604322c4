"""What a task puts out: gathered, sent in order, and held back while the scheduler has not kept what came before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.errors import StepRefused

Tell: TypeAlias = Callable[[pb.TaskOutputChunk], "asyncio.Future[pb.TaskRefusal | None]"]

MOST_BYTES = 4096
"""bytes of UTF-8 in a chunk that the scheduler takes."""
_GATHER_SECONDS = 0.1
_MOST_UNANSWERED = 8


class Output:
    """The output of one attempt."""

    def __init__(self, task_id: str, attempt: int, tell: Tell) -> None:
        """Sends its chunks by `tell`, which gives the refusal of each, or None once it is durable."""
        self._task_id = task_id
        self._attempt = attempt
        self._tell = tell
        self._gathered = bytearray()
        self._sequence = 0
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._refusal: pb.TaskRefusal | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def write(self, text: str) -> None:
        """Adds text; waits while several chunks have no answer.

        Raises:
            StepRefused: this attempt is over.
            ValueError: it is no text that UTF-8 can write.
        """
        self._gathered += text.encode()
        while True:
            if self._refusal is not None:
                raise StepRefused(self._refusal.reason, self._refusal.message)
            if len(self._gathered) < MOST_BYTES:
                break
            if self._unanswered >= _MOST_UNANSWERED:
                self._answered.clear()
                await self._answered.wait()
                continue
            self._send()
        if self._gathered and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._due)

    def flush(self) -> None:
        """Sends all that is left, since the function has ended."""
        self._stop_timer()
        while self._gathered and self._refusal is None:
            self._send()

    def drop(self) -> None:
        """Forgets what is left, since the attempt is over."""
        self._stop_timer()
        self._gathered.clear()

    def _due(self) -> None:
        self._timer = None
        # Else it goes with the next answer.
        if self._gathered and self._refusal is None and self._unanswered < _MOST_UNANSWERED:
            self._send()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self) -> None:
        size = _cut(self._gathered)
        text = self._gathered[:size].decode()
        del self._gathered[:size]
        if not self._gathered:
            self._stop_timer()
        self._sequence += 1
        self._unanswered += 1
        chunk = pb.TaskOutputChunk(task_id=self._task_id, attempt=self._attempt, sequence=self._sequence, text=text)
        self._tell(chunk).add_done_callback(self._heard)

    def _heard(self, answer: asyncio.Future[pb.TaskRefusal | None]) -> None:
        self._unanswered -= 1
        self._answered.set()
        if answer.cancelled():
            return
        self._refusal = self._refusal or answer.result()
        if self._timer is None:
            self._due()


def _cut(text: bytearray) -> int:
    """Where the first chunk ends: never within a character."""
    if len(text) <= MOST_BYTES:
        return len(text)
    size = MOST_BYTES
    while text[size] & 0xC0 == 0x80:
        size -= 1
    return size
