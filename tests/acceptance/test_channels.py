"""A stream, server-sent events, Kafka and webhooks tell the same events of every task, while what carries them is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.channels.scene import channels
from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


async def test_every_channel_has_each_event_once_in_order_although_parts_and_readers_are_killed(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    mesh.wait_healthy()
    outcome = await channels(mesh, tmp_path, tasks=8, steps=40, kills=4, least_events=43, patience=90.0, seed=2)
    assert outcome.good, outcome
    assert outcome.size["tasks"] == 8
