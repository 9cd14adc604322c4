"""What the embedded mesh needs of the machine."""

from __future__ import annotations

import platform
import sys

from services.embedded.errors import MeshError

OLDEST_GLIBC = (2, 31)
PYTHONS = ((3, 11), (3, 13))


def unsupported() -> str | None:
    """What keeps the embedded mesh from running on this machine, or None."""
    system, architecture = platform.system(), platform.machine()
    if system != "Linux" or architecture not in ("x86_64", "AMD64"):
        return f"{system} on {architecture}; it needs Linux on x86-64"
    library, version = platform.libc_ver()
    if library != "glibc" or _numbers(version) < OLDEST_GLIBC:
        return f"{library or 'another C library'} {version}; it needs glibc {'.'.join(map(str, OLDEST_GLIBC))} or newer"
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return f"Python {platform.python_version()}; it needs 3.11, 3.12 or 3.13"
    return None


def require_supported() -> None:
    """Raises MeshError, saying where to run it instead, where the embedded mesh cannot run."""
    problem = unsupported()
    if problem:
        raise MeshError(f"The embedded mesh does not run here ({problem}): use a Linux machine or container on x86-64 instead.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
