"""From what a sandbox process left behind to the outcome of a run; nothing that it left is trusted."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass, field

from services.tool.domain.errors import SandboxLost, SandboxUnavailable
from services.tool.domain.model import (
    EXIT_OUT_OF_MEMORY,
    EXIT_TIMEOUT,
    JSON,
    MEMORY_LIMIT,
    OUTPUT_LIMIT,
    Outcome,
    Program,
)
from services.tool.domain.values import NotJson, clean_json, clean_text

CONTROL_LIMIT = 8 * 1024 * 1024
"""Bytes that are kept of the control channel: a result of OUTPUT_LIMIT bytes, each perhaps escaped to six characters."""
BEGAN = b"BEGAN\n"
"""First line on the control channel, once the runner has the program; only then does the time limit begin."""
_START_SECONDS = 30.0
_CUT = "\n[output cut at 1 MiB]"
_ERROR_LIMIT = 64 * 1024


class Capture:
    """The first `limit` bytes of a stream; the rest is read and dropped, so that the writer never blocks."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.dropped = False

    def add(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        room = self._limit - len(self._data)
        self._data += data[:room]
        self.dropped = self.dropped or len(data) > room

    def starts_with(self, data: bytes) -> bool:
        """Whether the stream begins with `data`."""
        return self._data.startswith(data)

    def value(self) -> bytes:
        """What was kept."""
        return bytes(self._data)


@dataclass(slots=True)
class Remains:
    """What a sandbox process left behind."""

    output: Capture = field(default_factory=lambda: Capture(OUTPUT_LIMIT))
    control: Capture = field(default_factory=lambda: Capture(CONTROL_LIMIT))
    exit_code: int = 0
    timed_out: bool = False
    out_of_memory: bool = False
    start: float = field(default_factory=time.monotonic)
    began_at: float | None = None
    end: float | None = None

    @property
    def began(self) -> bool:
        """Whether the program reached the runner."""
        if self.began_at is None and self.control.starts_with(BEGAN):
            self.began_at = time.monotonic()
        return self.began_at is not None

    def deadline(self, time_limit: float) -> float:
        """The time.monotonic() at which the sandbox is killed; a slow start is not taken from the program's time."""
        if self.began and self.began_at is not None:
            return self.began_at + time_limit
        return self.start + _START_SECONDS

    @property
    def seconds(self) -> float:
        """How long the program ran."""
        return max(0.0, (self.end or time.monotonic()) - (self.began_at or self.start))


def payload(program: Program, limits: dict[str, int]) -> bytes:
    """What the runner reads on standard input; `limits` are names and values for resource.setrlimit."""
    body = json.dumps({"source": program.source, "arguments": program.arguments, "limits": limits}).encode()
    return b"%d\n%b" % (len(body), body)


def outcome_of(program: Program, remains: Remains) -> Outcome:
    """The outcome of a run.

    Raises:
        SandboxUnavailable: the program did not reach the runner.
        SandboxLost: the sandbox ended without an exit code of the program.
    """
    if not remains.began:
        raise SandboxUnavailable
    control = remains.control.value()
    if remains.exit_code < 0:
        raise SandboxLost(f"exit code {remains.exit_code}")
    output = _text(remains.output)
    if remains.timed_out:
        error = (
            f"TIMEOUT: the code ran longer than {program.time_limit:g} s and was killed; give it less to do, or a longer timeout."
        )
        return Outcome(EXIT_TIMEOUT, output, error, None, remains.seconds)
    frame = _frame(control[len(BEGAN) :])
    if remains.out_of_memory or frame.get("memory") is True:
        error = f"OUT_OF_MEMORY: the code used more than {MEMORY_LIMIT // 1024**2} MB of memory; work on smaller pieces."
        return Outcome(EXIT_OUT_OF_MEMORY, output, error, None, remains.seconds)
    error = clean_text(str(frame.get("error") or "")).replace("\0", "\N{REPLACEMENT CHARACTER}")[:_ERROR_LIMIT]
    exit_code, result = remains.exit_code, None
    if exit_code == 0:
        try:
            result = _result(frame)
        except (NotJson, RecursionError) as problem:
            exit_code, error = 1, f"RESULT_NOT_JSON: `result` cannot be given back: {problem}"
    if exit_code == 0:
        error = ""
    elif not error:
        error = _ending(exit_code)
    return Outcome(exit_code, output, error, result, remains.seconds)


def _frame(control: bytes) -> dict[str, object]:
    # The last whole line: a program that found the channel may have written lines before.
    lines = control.splitlines()
    if not lines:
        return {}
    try:
        frame = json.loads(lines[-1])
    except (ValueError, RecursionError):
        return {}
    return frame if isinstance(frame, dict) else {}


def _result(frame: dict[str, object]) -> JSON:
    result = clean_json(frame.get("result"))
    if len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()) > OUTPUT_LIMIT:
        raise NotJson(f"it takes more than {OUTPUT_LIMIT} bytes as JSON")
    return result


def _text(capture: Capture) -> str:
    text = capture.value().decode("utf-8", "replace")
    # A byte that is not UTF-8 becomes three; the limit holds for what is given.
    data = text.encode()
    if not capture.dropped and len(data) <= OUTPUT_LIMIT:
        return text
    return data[: OUTPUT_LIMIT - len(_CUT)].decode("utf-8", "ignore") + _CUT


def _ending(exit_code: int) -> str:
    if exit_code > 128:
        try:
            return f"The code was killed by {signal.Signals(exit_code - 128).name}."
        except ValueError:
            pass
    return f"The code ended with exit code {exit_code}."
