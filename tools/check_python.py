"""Says in one line what to do when this Python cannot run the project. It must itself run on any Python 3."""

import platform
import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit("guildmesh needs Python 3.11, 3.12 or 3.13, and this is " + found + ": try `make PYTHON=python3.12 demo`")
if platform.system() != "Linux" or platform.machine() != "x86_64":
    sys.exit(
        "the parts of the embedded mesh are built for Linux on x86-64, and this is "
        + platform.system()
        + " on "
        + platform.machine()
        + ": use a Linux machine or container"
    )
try:
    import ensurepip  # noqa: F401
except ImportError:
    sys.exit("this Python has no venv: install it first, on Debian with `apt-get install python3-venv`")
