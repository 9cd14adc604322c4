"""Becomes another program, tied to the life of its starter: `python -I -S launcher.py SIGNAL STARTER UID GID PROGRAM ARGUMENTS…`.

A program of its own, because Python code between fork and exec may crash in a process that has threads (gRPC's, for one).
It uses the standard library alone.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Changes to the account (-1 stays), asks the kernel for SIGNAL when the starter dies, and becomes the program."""
    number, starter, uid, gid = map(int, sys.argv[1:5])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # The kernel signals this process when its starter dies, however it dies. A change of user would clear this.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != starter:
        sys.exit(1)
    os.umask(0o077)
    program = sys.argv[5]
    try:
        os.execvp(program, sys.argv[5:])  # noqa: S606 - the whole point: no shell
    except OSError as error:
        sys.exit(f"cannot start {program}: {error.strerror}")


if __name__ == "__main__":
    main()
