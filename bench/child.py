"""Processes of a benchmark that are asked by lines of JSON, so that no load shares an interpreter with another."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bench.errors import BenchFailed

Answer = dict[str, Any]


class Child:
    """One Python process, `python -m MODULE ARGUMENTS`; it ends when its standard input does."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts it."""
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=None if environment is None else dict(environment),
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, **command: object) -> None:
        """Gives it something to do; `answer` gives what came of it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchFailed(f"{self._name} ended with {self._process.wait()}") from None

    def answer(self, seconds: float) -> Answer:
        """The next answer.

        Raises:
            BenchFailed: none came in time, or the process ended.
        """
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise BenchFailed(f"{self._name} gave no answer within {seconds:.0f} s") from None
        if not line:
            raise BenchFailed(f"{self._name} ended with {self._process.wait()}")
        answer: Answer = json.loads(line)
        if "failed" in answer:
            raise BenchFailed(f"{self._name}: {answer['failed']}")
        return answer

    def ask(self, seconds: float, /, **command: object) -> Answer:
        """Tells and waits for the answer."""
        self.tell(**command)
        return self.answer(seconds)

    def stop(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")


async def serve(handle: Callable[[Answer], Awaitable[Answer]]) -> None:
    """Answers commands from standard input until it ends; the side of the child."""
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            answer = await handle(json.loads(line))
        except Exception as error:
            answer = {"failed": _told(error)}
        await asyncio.to_thread(_write, answer)


def _told(error: Exception) -> str:
    """What went wrong, of several at once the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _write(answer: Answer) -> None:
    # A long line blocks until it is read, and the event loop has work to do.
    print(json.dumps(answer), flush=True)
