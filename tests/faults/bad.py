"""Negative controls: copies of the tree that were spoilt on purpose. Some sample of the suites must find each of them wrong."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.client import client_of
from tests.faults.cluster import ROOT, Cluster, Shape, running_cluster
from tests.faults.evidence import Problem
from tests.faults.judge import judge
from tests.faults.outcome import Outcome, told
from tests.faults.scenes import LIMITED, SCENES, Scene
from tests.faults.servers import Servers

FOLDER = Path(__file__).parent / "known_bad"
SHAPE = Shape(schedulers=2, relays=1, workers=2, lease_seconds=1.2, relay_lease_seconds=1.2, spawned=True)
_COPIED = ("services", "sdk/python", "gen", "tests", "gateway", "deploy/docker/sandbox")
# What is spoilt stays so; what is not has its time, whatever else the machine does.
_SPOILT_SETTLE_SECONDS = 10.0
_SETTLE_SECONDS = 45.0
LIFE = "life"
# Nobody looks by itself within the life of a scene, so that only wake-ups bring things about.
_NEVER_LOOK = {
    "GUILDMESH_LEASE_POLL_SECONDS": "600",
    "GUILDMESH_WATCH_POLL_SECONDS": "600",
    "GUILDMESH_RELAY_POLL_SECONDS": "600",
}


@dataclass(frozen=True)
class KnownBad:
    """One patch: what it spoils, and which sample has to notice."""

    file: Path
    what: str
    caught_by: str

    @property
    def name(self) -> str:
        """Its file's name."""
        return self.file.stem


def known_bad() -> list[KnownBad]:
    """All patches."""
    found = []
    for file in sorted(FOLDER.glob("*.patch")):
        what, caught_by, *_ = file.read_text().splitlines()
        found.append(KnownBad(file, what, caught_by.removeprefix("Caught-by: ")))
    return found


def spoilt(folder: Path, patch: Path | None) -> Path:
    """A copy of the tree in `folder`, with a patch; without one it is the control that must be found good."""
    tree = folder / "tree"
    for name in _COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    if patch is not None:
        apply(tree, patch)
    return tree


def apply(tree: Path, patch: Path, *, check: bool = False) -> None:
    """Applies a patch to a tree; with `check` only sees whether it could be."""
    options = ["--check"] if check else []
    # The copy lies in no repository; git must not look for one around it.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run(
        ["git", "apply", "-C1", "--whitespace=nowarn", *options, str(patch)],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{patch.name} cannot be applied any more: {done.stderr}"


async def play(
    tree: Path, folder: Path, servers: Servers, scene: Scene, seed: int, settle: float
) -> tuple[list[Problem], Cluster, dict[str, int]]:
    """One scene on a cluster of the code in `tree`."""
    # Their limits are of the scenes alone: they place what they create themselves.
    shape = replace(SHAPE, seed=seed, limited=1e-9 if scene in [SCENES[name] for name in LIMITED] else 0.0)
    async with running_cluster(folder, servers, shape, tree=tree, extra=_NEVER_LOOK) as cluster:
        cluster.random = random.Random(seed)
        async with client_of(cluster) as client:
            try:
                async with asyncio.timeout(30):
                    await scene(cluster, client)
            except TimeoutError:
                cluster.surprises.append("the clients were not answered within 30 s")
            cluster.arm("")
            evidence, problems = await judge(cluster, client, settle)
    return problems, cluster, evidence.size()


def model(tree: Path) -> list[str]:
    """The state machine of a task's life, over the code in `tree`; what it found wrong."""
    test = "tests/integration/scheduler/test_task_life.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=400", test],
        cwd=tree,
        # Enough of it that chance does not hide what a patch spoils.
        env=environment(tree) | {"GUILDMESH_LIFE_EXAMPLES": "150"},
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    if done.returncode == 0:
        return []
    found = [line for line in done.stdout.splitlines() if "AssertionError" in line]
    # Any other error is not the model's, so it shows nothing.
    assert found, done.stdout
    return found[:5]


def environment(tree: Path) -> dict[str, str]:
    """Variables under which Python takes the code of `tree` before the installed one."""
    paths = (tree, tree / "gen" / "python", tree / "sdk" / "python")
    return {**os.environ, "PYTHONPATH": ":".join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}


async def caught(folder: Path, servers: Servers, caught_by: str, patch: KnownBad | None, seed: int) -> Outcome:
    """Whether a sample notices a patch; without a patch, whether it finds nothing."""
    begun = time.monotonic()
    tree = await asyncio.to_thread(spoilt, folder, patch.file if patch else None)
    size = {"tasks": 1}
    if caught_by == LIFE:
        found = await asyncio.to_thread(model, tree)
    else:
        problems, cluster, size = await play(
            tree, folder, servers, SCENES[caught_by], seed, _SPOILT_SETTLE_SECONDS if patch else _SETTLE_SECONDS
        )
        found = told(problems, cluster.surprises)
    cell = f"{patch.name if patch else 'nothing spoilt'} by {caught_by}"
    wrong = found if patch is None else ([] if found else [f"{patch.name} was not noticed: {patch.what}"])
    return Outcome("known bad", cell, seed, wrong, size, time.monotonic() - begun, {"noticed": found[:3]})
