"""What a test needs of the machine: where it is missing the test is skipped, or fails if GUILDMESH_REQUIRE_ALL=1, as CI sets."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from functools import cache
from typing import NoReturn

import pytest


def require_all() -> bool:
    """Whether a missing part is a failure."""
    return os.environ.get("GUILDMESH_REQUIRE_ALL", "") not in ("", "0")


def missing(reason: str) -> NoReturn:
    """Skips the running test, or fails it where nothing may be missing."""
    if require_all():
        pytest.fail(f"{reason} (GUILDMESH_REQUIRE_ALL is set)", pytrace=False)
    pytest.skip(reason)


def need_program(name: str) -> str:
    """The path of a program on PATH."""
    return shutil.which(name) or missing(f"{name} is not installed")


def need_docker() -> None:
    """A Docker engine that answers."""
    if (problem := _docker_problem()) is not None:
        missing(problem)


@cache
def _docker_problem() -> str | None:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=10)
    except DockerException as error:
        problem = f"no Docker engine answers: {error}"
    else:
        problem = ""
    if problem:
        # The library leaves the socket of a failed connection to the garbage collector: let it be found here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        return problem
    try:
        client.ping()
    except Exception as error:  # whatever it is, there is no engine to use
        return f"no Docker engine answers: {error}"
    finally:
        client.close()
    return None
