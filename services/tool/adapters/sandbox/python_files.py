"""The smallest set of files with which the interpreter of this process runs elsewhere.

That is the executable, the standard library without what was installed into it, and the shared libraries both load.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from services.tool.domain.errors import SandboxUnavailable

_SKIPPED = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages")
_UNUSED_EXTENSION = re.compile(r"/(_tkinter|_test|_xx|xx)[^/]*$")


@dataclass(frozen=True, slots=True)
class PythonFiles:
    """Where the files are on this machine, and where they go in the sandbox."""

    executable: str
    binds: tuple[tuple[str, str], ...]
    """pairs of source and destination."""
    covered: tuple[str, ...]
    """folders in the standard library that the sandbox must show empty."""


def collect(for_nobody: bool) -> PythonFiles:
    """The files of this process' interpreter; with `for_nobody` each is one that every user of the machine can read.

    What lies in a private folder (a Python under root's home) is copied once to a folder of root's in the temporary
    directory, because the user nobody, as whom the sandbox then runs, could not reach it.

    Raises:
        SandboxUnavailable: the interpreter's libraries cannot be told.
    """
    executable = os.path.realpath(sys.executable)
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    paths = [executable, library, *_shared_libraries(executable, library)]
    binds = tuple((public(path) if for_nobody else path, path) for path in paths)
    source = {destination: origin for origin, destination in binds}[library]
    covered = tuple(f"{library}/{name}" for name in ("site-packages", "dist-packages") if os.path.isdir(f"{source}/{name}"))
    return PythonFiles(executable, binds, covered)


def readable_by_all(path: str) -> bool:
    """Whether every user of the machine can reach and read `path`."""
    real = Path(os.path.realpath(path))
    needed = stat.S_IROTH | (stat.S_IXOTH if real.is_dir() else 0)
    return real.stat().st_mode & needed == needed and all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)


def _shared_libraries(executable: str, library: str) -> list[str]:
    extensions = [str(path) for path in Path(library, "lib-dynload").glob("*.so") if not _UNUSED_EXTENSION.search(str(path))]
    try:
        listing = subprocess.run(
            ["ldd", executable, *extensions],
            capture_output=True, text=True, timeout=30, check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailable from error
    return sorted(set(re.findall(r"(/\S+) \(0x", listing)))


def public(path: str) -> str:
    """A path to the same file or folder that every user of the machine can read: `path` itself, or a copy.

    Raises:
        SandboxUnavailable: the copy cannot be kept safely.
    """
    return path if readable_by_all(path) else _copied(_store(), path)


def _store() -> Path:
    version = sha256(f"{sys.version}{sys.executable}{sys.prefix}".encode()).hexdigest()[:16]
    store = Path(tempfile.gettempdir(), f"guildmesh-sandbox-{os.getuid()}-{version}")
    store.mkdir(mode=0o755, exist_ok=True)
    found = store.lstat()
    # The temporary directory is everyone's: take nothing that someone else put there.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise SandboxUnavailable
    store.chmod(0o755)
    return store


def _copied(store: Path, path: str) -> str:
    # The tree is the same below the store, because libraries are found relative to those that load them.
    target = store / path.lstrip("/")
    if not target.exists():
        for folder in reversed([parent for parent in target.parents if store in parent.parents]):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        part = Path(tempfile.mkdtemp(dir=store, prefix=".part-"))
        if os.path.isdir(path):
            shutil.copytree(path, part / "x", symlinks=True, ignore=shutil.ignore_patterns(*_SKIPPED))
        else:
            shutil.copy2(path, part / "x")
        (part / "x").chmod(0o755)
        try:
            os.rename(part / "x", target)
        except OSError:
            # Another process was first; a folder cannot be renamed onto a full one.
            if not target.exists():
                raise
        finally:
            shutil.rmtree(part)
    return str(target)
