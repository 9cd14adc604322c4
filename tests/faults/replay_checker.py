"""Each failed task is replayed once at most, and once when that was acknowledged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.faults.evidence import Evidence, Problem
from tests.faults.history import OK

ENDED = ("COMPLETED", "FAILED", "CANCELLED")


def replayed_once(evidence: Evidence) -> Iterator[Problem]:
    """Everything that is wrong with the replays of failed tasks."""
    replays: dict[str, list[str]] = defaultdict(list)
    for row in evidence.tasks.values():
        if row.replay_of:
            replays[row.replay_of].append(row.task_id)
            if row.state not in ENDED:
                yield Problem("left behind", row.task_id, f"a replay that is {row.state} when all is quiet")
    asked = {operation.asked["task_id"] for operation in evidence.history if operation.what == "replay"}
    for task_id, made in replays.items():
        origin = evidence.tasks.get(task_id)
        if len(made) > 1:
            yield Problem("doubled", task_id, f"it was replayed {len(made)} times")
        if task_id not in asked:
            yield Problem("phantom", task_id, "it was replayed, and nobody asked for that")
        if origin is None or origin.state != "FAILED":
            yield Problem("phantom", task_id, f"it was replayed, and is {'not there' if origin is None else origin.state}")
    for operation in evidence.history:
        if operation.what == "replay" and operation.outcome == OK:
            task_id, told = operation.asked["task_id"], operation.told["task_id"]
            if told not in replays[task_id]:
                yield Problem("lost", task_id, f"its replay was acknowledged as {told}, which is not there")
