"""A small sample of each fault suite; `make faults` runs them in full. Each day has another seed; one that fails is told."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.failpoints import POINTS
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart
from tests.faults import bad, cells, failpoints, suites
from tests.faults.cluster import ROOT, Cluster, Shape, running_cluster
from tests.faults.outcome import Outcome
from tests.faults.scenes import SCENES
from tests.faults.servers import Servers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SEED = int(os.environ.get("GUILDMESH_FAULTS_SEED") or time.strftime("%Y%m%d", time.gmtime()))
# Any of them could be drawn; these come every time, since most depends on them.
ALWAYS = (
    "scheduler.create.after_commit",
    "scheduler.report.before_commit",
    "scheduler.fire.after_commit",
    "relay.publish.before_commit",
)


def check(outcome: Outcome) -> None:
    assert outcome.good, f"GUILDMESH_FAULTS_SEED={SEED}: {outcome.suite}: {outcome.cell}\n" + "\n".join(outcome.problems)


@pytest.fixture
def servers(postgres_server: RunningPart, kafka_bootstrap_servers: str) -> Servers:
    assert isinstance(postgres_server.part, Postgres)
    url = postgres_server.part.create_database(f"faults_{uuid.uuid4().hex[:12]}")
    return Servers(url, kafka_bootstrap_servers)


@pytest.fixture
async def cluster(tmp_path: Path, servers: Servers) -> AsyncIterator[Cluster]:
    shape = replace(failpoints.SHAPE, seed=SEED)
    async with running_cluster(tmp_path, servers, shape) as cluster:
        yield cluster
    assert cluster.surprises == []


async def test_nothing_is_lost_when_processes_break_are_killed_and_paused(cluster: Cluster) -> None:
    chance = random.Random(SEED)
    for name in (*ALWAYS, *chance.sample(sorted(set(POINTS) - set(ALWAYS)), 1)):
        check(await failpoints.failpoint(cluster, name, chance.choice(failpoints.ACTIONS), SEED))
    check(await suites.kills_here(cluster, tasks=600, seconds=4))
    check(await suites.pauses_here(cluster, tasks=400, times=1))
    check(await suites.pauses_here(cluster, tasks=200, times=1, role="scheduler"))


async def test_the_rate_stays_while_a_transaction_holds_the_horizon(servers: Servers, tmp_path: Path) -> None:
    # On a machine that does other things as well, short windows say little about the rate; the full suite has the gate.
    shape = Shape(schedulers=1, relays=1, workers=1, seed=SEED)
    check(await cells.cell(tmp_path, "idle_in_tx", SEED, window=0.4, gate=0.2, servers=servers, shape=shape))


async def test_a_patch_that_breaks_a_promise_is_noticed(servers: Servers, tmp_path: Path) -> None:
    patches = [patch for patch in bad.known_bad() if patch.caught_by != bad.LIFE]
    patch = random.Random(SEED).choice(patches)
    check(await bad.caught(tmp_path, servers, patch.caught_by, patch, SEED))


def test_every_known_bad_patch_can_be_applied_and_says_what_it_breaks() -> None:
    patches = bad.known_bad()
    assert len(patches) >= 8
    for patch in patches:
        assert patch.what.endswith(".")
        assert patch.caught_by in {bad.LIFE, *SCENES}
        bad.apply(ROOT, patch.file, check=True)
