"""Becomes another program, tied to its starter's life: `python -I -S launcher.py SIGNAL STARTER UID GID NICE PROGRAM ARGUMENTS…`.

A program of its own, because Python code between fork and exec may crash in a process that has threads (gRPC's, for one).
It uses the standard library alone.
"""

import contextlib
import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Changes to the account (-1 stays), asks the kernel for SIGNAL when the starter dies, and becomes the program."""
    number, starter, uid, gid, nice = map(int, sys.argv[1:6])
    if nice:
        _give_way(nice)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # The kernel signals this process when its starter dies, however it dies. A change of user would clear this.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != starter:
        sys.exit(1)
    os.umask(0o077)
    program = sys.argv[6]
    try:
        os.execvp(program, sys.argv[6:])  # noqa: S606 - the whole point: no shell
    except OSError as error:
        sys.exit(f"cannot start {program}: {error.strerror}")


def _give_way(nice: int) -> None:
    """Lets others have the processor first when there is not enough of it for all."""
    os.nice(nice)
    # On a desktop the kernel weighs whole sessions against each other, and this process leads one.
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write(str(nice))


if __name__ == "__main__":
    main()
