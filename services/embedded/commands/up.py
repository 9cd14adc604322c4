"""`guildmesh up`."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Annotated

import typer

from services.embedded import mesh
from services.embedded.commands.console import fail, one_line_errors, open_state, out
from services.embedded.display import display, duration
from services.embedded.machine import require_supported
from services.embedded.settings import MeshSettings
from services.embedded.state import StateFolder
from services.embedded.status import PartStatus

_POLL_SECONDS = 0.05


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when all is healthy, and leave it running.")] = False,
) -> None:
    """Start the whole mesh on this machine."""
    with one_line_errors():
        require_supported()
        settings, state = open_state()
        state.create()
        if detach:
            _detached(state)
        else:
            _attached(settings, state)


def _attached(settings: MeshSettings, state: StateFolder) -> None:
    begun = time.monotonic()
    told = False
    with display(out) as shown:

        def watch(rows: list[PartStatus]) -> None:
            nonlocal told
            shown.show(rows)
            snapshot = mesh.look(state)
            if snapshot.phase == mesh.UP and not told:
                told = True
                _welcome(snapshot, time.monotonic() - begun)
                out.print("Ctrl-C stops it.")

        try:
            status = mesh.bring_up(settings, state, watch)
        except mesh.AlreadyRunning:
            status = -1
    if status == -1:
        _follow(state, None, begun)
    elif status:
        fail(mesh.look(state).error or "The mesh could not be started.")
    else:
        out.print("The mesh is down.")


def _detached(state: StateFolder) -> None:
    begun = time.monotonic()
    if state.is_locked():
        _follow(state, None, begun)
        return
    log = state.logs / "supervisor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.embedded.serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _follow(state, process, begun)


def _follow(state: StateFolder, process: subprocess.Popen[bytes] | None, begun: float) -> None:
    """Shows the start of a mesh that another process runs, until it is up or has failed."""
    if process is None and mesh.look(state).phase == mesh.UP:
        snapshot = mesh.look(state)
        age = duration(time.time() - snapshot.started)
        out.print(
            f"The mesh is up already, since {age}, at {snapshot.url}; see `guildmesh status`.", highlight=False, soft_wrap=True
        )
        return
    with display(out) as shown:
        while True:
            snapshot = mesh.look(state)
            ended = process is not None and process.poll() is not None
            mine = process is None or snapshot.supervisor == process.pid
            if mine:
                shown.show(snapshot.rows)
                if snapshot.phase == mesh.UP or (ended or snapshot.phase in (mesh.FAILED, mesh.STOPPED)):
                    break
            elif ended:
                break
            time.sleep(_POLL_SECONDS)
    if mine and snapshot.phase == mesh.UP:
        _welcome(snapshot, time.monotonic() - begun)
        return
    if not mine and state.is_locked():
        # Someone else's was faster by a moment.
        _follow(state, None, begun)
        return
    if mine and snapshot.error:
        if process is not None:
            process.wait()
        fail(snapshot.error)
    tail = (state.logs / "supervisor.log").read_text(errors="replace").strip().splitlines()[-1:]
    fail(f"The mesh could not be started: {tail[0] if tail else 'its supervisor ended'} (see {state.logs}).")


def _welcome(snapshot: mesh.Snapshot, seconds: float) -> None:
    out.print(
        f"The mesh is up after {seconds:.1f} s at [bold]{snapshot.url}[/bold] (gRPC and REST; {snapshot.url}/docs).",
        highlight=False,
        soft_wrap=True,
    )
    out.print(
        'Next: eval "$(guildmesh env)"; guildmesh chat "Hello"; guildmesh status; guildmesh down.',
        highlight=False,
        soft_wrap=True,
    )
