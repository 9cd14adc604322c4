"""One mesh in one state folder: brought up, found again by other commands, and brought down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.common.certificates import issue_mesh_certificates
from services.embedded import processes
from services.embedded.errors import MeshError
from services.embedded.plan import IDENTITIES, Mesh, plan
from services.embedded.ports import LOOPBACK, require_free
from services.embedded.processes import Footprint
from services.embedded.settings import MeshSettings
from services.embedded.state import StateFolder
from services.embedded.status import PartStatus, State
from services.embedded.supervisor import Supervisor

STARTING, UP, FAILED, STOPPING, STOPPED = "starting", "up", "failed", "stopping", "stopped"
_DOWN_SECONDS = 60.0


@dataclass(frozen=True)
class Snapshot:
    """What the record says about the mesh, and whether it is still true."""

    phase: str
    """STARTING, UP, FAILED, STOPPING or STOPPED; STOPPED too when the supervisor is gone."""
    rows: list[PartStatus]
    exports: dict[str, str]
    error: str
    supervisor: int
    """Process id, or 0."""
    started: float
    """Seconds since the epoch."""

    @property
    def url(self) -> str:
        """Base URL of the public port."""
        return self.exports.get("GUILDMESH_URL", "")


class AlreadyRunning(MeshError):
    """A supervisor holds the folder."""


def look(state: StateFolder) -> Snapshot:
    """Reads the record of the mesh in this folder."""
    record = state.record()
    rows = [PartStatus.from_dict(row) for row in record.get("parts", [])]
    phase = str(record.get("phase", STOPPED))
    if not state.is_locked():
        phase = FAILED if phase == FAILED else STOPPED
        for row in rows:
            if row.state is not State.FAILED:
                row.state, row.why = State.STOPPED, ""
    return Snapshot(
        phase=phase,
        rows=rows,
        exports=dict(record.get("exports", {})),
        error=str(record.get("error", "")),
        supervisor=int(record.get("supervisor", {}).get("pid", 0)),
        started=float(record.get("started", 0.0)),
    )


def sweep(state: StateFolder) -> list[Footprint]:
    """Ends what a supervisor that was killed left behind; call it only while no supervisor lives."""
    rows = state.record().get("parts", [])
    left = [Footprint(row["name"], row["pid"], row["started"]) for row in rows if row.get("pid")]
    return processes.sweep(left)


def bring_up(settings: MeshSettings, state: StateFolder, watch: Callable[[list[PartStatus]], None]) -> int:
    """Runs the mesh until it is asked to stop; gives 0, or 1 when a part could not be started.

    Args:
        settings: of the mesh.
        state: its folder.
        watch: called with the rows whenever one changed.

    Raises:
        AlreadyRunning: another supervisor holds the folder.
        MeshError: something must be changed first, such as a port that is taken.
    """
    state.create()
    with state.locked() as mine:
        if not mine:
            raise AlreadyRunning("The mesh is up already.")
        sweep(state)
        record = _Record(state)
        try:
            _require_ports(settings, state)
            rotate_logs(state)
            for hold in state.held.iterdir():
                hold.unlink()
            issue_mesh_certificates(state.tls, IDENTITIES)
            mesh = plan(settings, state)
        except Exception as error:
            record.write(FAILED, error=str(error) if isinstance(error, MeshError) else f"{type(error).__name__}: {error}")
            raise
        return asyncio.run(_serve(mesh, state, record, watch))


async def _serve(mesh: Mesh, state: StateFolder, record: _Record, watch: Callable[[list[PartStatus]], None]) -> int:
    def changed() -> None:
        rows = list(supervisor.status.values())
        record.write(record.phase, rows=rows)
        watch(rows)

    supervisor = Supervisor(mesh.parts, state.logs, state.held, changed)
    record.exports = mesh.exports
    record.write(STARTING, rows=list(supervisor.status.values()))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            # Asked twice: at once, then.
            supervisor.kill()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, asked)
    supervisor.start()
    settled = asyncio.create_task(supervisor.settled())
    asked_to_stop = asyncio.create_task(stop.wait())
    good = True
    try:
        await asyncio.wait({settled, asked_to_stop}, return_when=asyncio.FIRST_COMPLETED)
        if settled.done() and not stop.is_set():
            good = settled.result()
            if good:
                record.write(UP, rows=list(supervisor.status.values()))
                watch(list(supervisor.status.values()))
                await stop.wait()
    finally:
        settled.cancel()
        asked_to_stop.cancel()
        error = "; ".join(f"{row.name}: {row.why}" for row in supervisor.failed)
        record.write(STOPPING, rows=list(supervisor.status.values()), error=error)
        await supervisor.stop()
        record.write(STOPPED if good else FAILED, rows=list(supervisor.status.values()), error=error)
    return 0 if good else 1


class _Record:
    """Writes what other commands read."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._started = time.time()
        self.exports: dict[str, str] = {}
        self.phase = STARTING

    def write(self, phase: str, rows: list[PartStatus] | None = None, error: str = "") -> None:
        self.phase = phase
        mark = processes.footprint("supervisor", os.getpid())
        record: dict[str, Any] = {
            "phase": phase,
            "error": error,
            "started": self._started,
            "supervisor": mark.as_dict(),
            "exports": self.exports,
            "parts": [row.as_dict() for row in rows or []],
        }
        self._state.write_record(record)


def take_down(state: StateFolder) -> bool:
    """Stops the mesh of this folder and everything that was left behind; gives whether anything ran.

    Raises:
        MeshError: it belongs to another account.
    """
    ran = False
    supervisor = state.record().get("supervisor", {})
    if state.is_locked() and supervisor.get("pid"):
        ran = True
        mark = Footprint("supervisor", supervisor["pid"], supervisor["started"])
        try:
            os.kill(mark.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise MeshError(f"The mesh belongs to another account (supervisor: pid {mark.pid}); stop it from there.") from error
        deadline = time.monotonic() + _DOWN_SECONDS
        while state.is_locked() and time.monotonic() < deadline:
            time.sleep(0.05)
        if mark.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(mark.pid, signal.SIGKILL)
    return bool(sweep(state)) or ran


def rotate_logs(state: StateFolder) -> None:
    """Keeps the logs of the run before as `NAME.log.1`."""
    for log in state.logs.glob("*.log"):
        # The supervisor's own is open already.
        if log.name != "supervisor.log":
            log.replace(log.with_suffix(".log.1"))


def _require_ports(settings: MeshSettings, state: StateFolder) -> None:
    require_free(settings.api_port, "API_PORT", settings.api_host)
    require_free(settings.metrics_port, "METRICS_PORT", LOOPBACK)
    if state.external("KAFKA_BOOTSTRAP_SERVERS", settings.kafka_bootstrap_servers or None) is None:
        require_free(settings.kafka_port, "KAFKA_PORT", LOOPBACK)
