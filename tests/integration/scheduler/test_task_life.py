"""The life of tasks against a model: whatever is done in whatever order, the tables say what a dict says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from pydantic import SecretStr

from services.common.db.driver import open_driver
from services.common.db.migrations import migrate
from services.scheduler.storage import dispatch_owners, queues
from tests.integration.scheduler.conftest import MakeSettings
from tests.integration.scheduler.task_life.machine import MIXED, machine_over
from tests.integration.scheduler.task_life.world import World

EXAMPLES = int(os.environ.get("GUILDMESH_LIFE_EXAMPLES", "30"))
"""lives; a long run has some hundreds."""
STEPS = int(os.environ.get("GUILDMESH_LIFE_STEPS", "8"))
# Each of these must come about so often, or the run has shown too little; by the theme of the lives that bring it about.
_WANTED = {
    "tasks": (
        *("accepted", "refused", "created", "started", "leased again", "step_completed", "retried", "completed", "failed"),
        *("cancelled", "ready", "waiting", "signalled", "blocked", "unblocked", "ended by a dependency"),
        *("child_created", "tool called", "tool refused"),
    ),
    "output": ("output", "progressed", "put out before", "put out too soon"),
    "queues": (
        *("decided", "held back", "taken over", "decided no more"),
        *("started at once within limits", "let through by a rate", "held back by a rate"),
        *("queue deleted", "queue not empty", "of a shared queue"),
    ),
    "graphs": ("graph", "graph before"),
    "payloads": (
        *("uploaded", "context", "context like before", "context is gone", "result is a payload", "result is gone"),
        *("payload in use", "payload deleted", "payload swept"),
    ),
    "letters": ("replayed", "replayed before", "stands for another"),
    "clocks": ("run", "skipped"),
}
_OFTEN = 5


@pytest.fixture
def world(scheduler_settings: MakeSettings, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # A process that stands still for so long loses its transaction, as on a busy machine; no model foresees that.
    patient = dispatch_owners._HOLD.replace("'750'", "'30000'").replace("'2000'", "'30000'")
    assert patient != dispatch_owners._HOLD
    monkeypatch.setattr(dispatch_owners, "_HOLD", patient)
    # Some a life, which stay.
    monkeypatch.setattr(queues, "MOST_QUEUES", 1_000_000)
    own = scheduler_settings(database_url=SecretStr(empty_database_url), db_pool_size=6)
    migrate(own, package="services.scheduler.storage.migrations", schema="scheduler")
    with asyncio.Runner() as runner:
        opened = open_driver(own, "scheduler")
        database = runner.run(opened.__aenter__())
        world = World(runner, database)
        try:
            yield world
        finally:
            world.close()
            runner.run(opened.__aexit__(None, None, None))


def test_the_life_of_tasks_follows_the_model(world: World) -> None:
    themes: Sequence[str] = MIXED
    missing: list[tuple[str, str]] = []
    # Chance may have kept something rare away, so there is more of what brings it about until everything was seen.
    for _ in range(20):
        run_state_machine_as_test(
            machine_over(world, themes),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                print_blob=True,
                # In CI Hypothesis would make the same examples at each turn.
                derandomize=False,
                # Making a failure smaller would take minutes; set a larger limit of time and add Phase.shrink to do it.
                phases=(Phase.explicit, Phase.reuse, Phase.generate),
                suppress_health_check=list(HealthCheck),
            ),
        )
        missing = [(theme, kind) for theme, kinds in _WANTED.items() for kind in kinds if world.seen[kind] < _OFTEN]
        if not missing:
            break
        themes = sorted({theme for theme, _ in missing})
    assert missing == [], world.seen
