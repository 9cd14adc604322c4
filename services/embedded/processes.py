"""Starting, recognising and ending processes so that none is ever left over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from services.embedded.parts.part import Launch

_LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True)
class Footprint:
    """What identifies a process that we started: ids are used again, so the time of its start belongs to it."""

    part: str
    pid: int
    started: float
    """Seconds since the epoch, as the kernel tells them."""

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def as_dict(self) -> dict[str, Any]:
        """The footprint as JSON data."""
        return asdict(self)


def start(launch: Launch, log: Path) -> subprocess.Popen[bytes]:
    """Starts the process as leader of its own process group, with its output appended to `log`.

    Call it from the main thread: the kernel ties the child to the thread that started it.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [*_launcher(launch), *launch.argv],
            env=dict(launch.environment),
            cwd=launch.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C at the terminal reaches only the supervisor, which stops the parts in order.
            start_new_session=True,
        )


def _launcher(launch: Launch) -> list[str]:
    uid, gid = (launch.account.uid, launch.account.gid) if launch.account is not None else (-1, -1)
    arguments = (int(launch.stop_signal), os.getpid(), uid, gid)
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *map(str, arguments)]


def give_way(pid: int, nice: int) -> None:
    """Lets others have the processor before this process when there is too little of it for all."""
    with contextlib.suppress(OSError):
        # What a thread starts later has its priority; those that are there have to be told one by one.
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)
        # On a desktop the kernel weighs whole sessions against each other, and each part leads one.
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def run_to_end(launch: Launch, log: Path, timeout: float) -> None:
    """Runs a short program to its end; raises CalledProcessError when it ends with anything but 0."""
    process = start(launch, log)
    try:
        status = process.wait(timeout)
    except BaseException:
        kill_group(process.pid)
        process.wait()
        raise
    if status != 0:
        raise subprocess.CalledProcessError(status, launch.argv)


def footprint(part: str, pid: int) -> Footprint:
    """The footprint of a process that runs now; `started` is 0 when it has gone already."""
    try:
        return Footprint(part, pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return Footprint(part, pid, 0.0)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Sends the signal to every process of the group; silent when the group has gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def kill_group(pid: int) -> None:
    """Kills every process of the group."""
    signal_group(pid, signal.SIGKILL)


def sweep(footprints: list[Footprint], grace: float = 5.0) -> list[Footprint]:
    """Ends the processes that still run, with all of their children; gives those that had to be ended."""
    left = [each for each in footprints if each.alive()]
    processes: list[psutil.Process] = []
    for each in left:
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(each.pid)
            processes += [leader, *leader.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            # PostgreSQL waits for its clients on SIGTERM; SIGINT is its fast and orderly way down.
            process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
    _, stubborn = psutil.wait_procs(processes, timeout=grace)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=grace)
    return left
