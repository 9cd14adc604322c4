"""Starts a program again and again in the time of a fork: `python -m tests.faults.spawner MODULE IMPORTED`.

It has imported what the program imports and nothing else: no thread, no loop, no connection, no random number is older than the
fork. Each line on stdin, a JSON object of environment variables, starts `python -m MODULE` once; the answers are the process's
id and, when it has ended, its status. Output goes where this process's stderr goes. When this process dies, the program does.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main() -> None:
    module, imported = sys.argv[1:3]
    importlib.import_module(imported)
    assert threading.active_count() == 1, "a fork would lose threads"
    # It is to be run, not found; what it imported stays.
    del sys.modules[imported]
    gc.freeze()
    me = os.getpid()
    libc = ctypes.CDLL(None)
    for line in sys.stdin:
        environment = json.loads(line)
        child = os.fork()
        if not child:
            libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != me:
                os._exit(1)
            _become(module, environment)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(module: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.argv = [module]
    status: object = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    main()
