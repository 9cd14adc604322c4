"""JSON Schema checks, each with a limit of time, in a process that can be killed (see schema_worker)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from services.common.errors import DependencyUnavailable
from services.tool.domain.model import JSON

_WORKER = Path(__file__).with_name("schema_worker.py")
_START_SECONDS = 20.0
_CHUNK = 65536
_log = structlog.get_logger(__name__)


class ProcessSchemaChecker:
    """Implements SchemaChecker with one worker process, started when first needed; one check at a time."""

    def __init__(self, seconds: float = 2.0) -> None:
        """Gives a check at most `seconds`."""
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        # One thread: it is also the queue of the checks.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="schema")

    async def problem_of_schema(self, schema: Mapping[str, JSON]) -> str | None:
        """See SchemaChecker."""
        return await self._ask({"schema": schema})

    async def problem_of_arguments(self, schema: Mapping[str, JSON], arguments: Mapping[str, JSON]) -> str | None:
        """See SchemaChecker."""
        return await self._ask({"schema": schema, "arguments": arguments})

    async def close(self) -> None:
        """Ends the worker."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown(wait=False)

    async def _ask(self, question: Mapping[str, JSON]) -> str | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)

    def _answer(self, question: Mapping[str, JSON]) -> str | None:
        try:
            if self._process is None:
                self._process = _start()
                # Its imports take longer than a check may.
                _exchange(self._process, {"schema": {}}, _START_SECONDS)
            return _exchange(self._process, question, self._seconds)
        except TimeoutError:
            self._end()
            return f"checking takes longer than {self._seconds:g} s; make the schema simpler."
        except (OSError, EOFError, ValueError) as error:
            _log.warning("schema_worker_failed", error=str(error))
            self._end()
            raise DependencyUnavailable("schema checker") from error

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.wait()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, cwd="/", bufsize=0
    )


def _exchange(process: subprocess.Popen[bytes], question: Mapping[str, JSON], seconds: float) -> str | None:
    """Sends a line and reads one; raises TimeoutError, or EOFError when the worker ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    left = memoryview(json.dumps(question).encode() + b"\n")
    answer = b""
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while not answer.endswith(b"\n"):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is process.stdout:
                    data = os.read(key.fd, _CHUNK)
                    if not data:
                        raise EOFError("the worker ended")
                    answer += data
                    continue
                left = left[os.write(key.fd, left[:_CHUNK]) :]
                if not left:
                    selector.unregister(process.stdin)
    problem = json.loads(answer)["problem"]
    return None if problem is None else str(problem)
