"""What ties an api process to the supervisor that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "GUILDMESH_SUPERVISOR_PID"
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ends this process when its supervisor does, also when that one is killed and can end nobody; no supervisor, no effect.

    Without it a killed supervisor would leave processes that go on taking a share of the port's connections.
    """
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        # It ended between the start of this process and the line above.
        sys.exit(1)
