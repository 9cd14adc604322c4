"""Processes are killed in the middle of the demo: it still ends right, each event once per id, no gap."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from tests.support.console_consumer import console_consumer
from tests.support.mesh import RunningMesh

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]
RUN = re.compile(r"Run ([0-9a-f-]{36})")


def demo(mesh: RunningMesh) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "examples" / "demo.py")],
        env={**mesh.environment, "COLUMNS": "300"},
        cwd=mesh.state_dir.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_of(process: subprocess.Popen[str], seen: list[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        yield line


# Each process dies twice, with what it leans on alive and without.
@pytest.mark.parametrize("victims", [("worker", "relay"), ("scheduler", "kafka"), ("worker", "scheduler", "relay", "kafka")])
def test_a_demo_ends_right_although_processes_are_killed_in_its_middle(mesh: RunningMesh, victims: tuple[str, ...]) -> None:
    mesh.wait_healthy()
    process = demo(mesh)
    seen: list[str] = []
    pending = list(victims)
    run_id = ""
    events = 0
    try:
        for line in lines_of(process, seen):
            found = RUN.search(line)
            if found:
                run_id = found.group(1)
            elif run_id:
                events += 1
            # The first dies as soon as the run has begun, the next ones some events later each.
            if run_id and pending and events >= 4 * (len(victims) - len(pending)) + 3:
                mesh.kill(pending.pop(0))
        code = process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert code == 0, "".join(seen)[-4000:]
    assert not pending, "".join(seen)[-4000:]
    mesh.wait_healthy()
    check_events(mesh, run_id)


def check_events(mesh: RunningMesh, run_id: str) -> None:
    """The run and each of its steps: on Kafka every number once per id, in order, without a gap."""
    headers = {"Authorization": f"Bearer {mesh.token()}"}
    steps = httpx.get(f"{mesh.url}/v1/tasks", params={"parent_task_id": run_id, "page_size": 200}, headers=headers).json()[
        "tasks"
    ]
    assert steps
    last: dict[str, int] = {}
    for task_id in [run_id, *(step["task_id"] for step in steps)]:
        task = httpx.get(f"{mesh.url}/v1/tasks/{task_id}", headers=headers).json()
        assert task["status"] == "completed", task
        last[task_id] = task["last_event_number"]
    numbers = asyncio.run(kafka_numbers(mesh, last))
    assert numbers == {task_id: list(range(1, number + 1)) for task_id, number in last.items()}


async def kafka_numbers(mesh: RunningMesh, last: Mapping[str, int]) -> dict[str, list[int]]:
    """The event numbers of tasks on Kafka in order, exact repeats left out, up to the last of each."""
    values: dict[str, dict[int, bytes]] = {task_id: {} for task_id in last}
    consumer = AIOKafkaConsumer(
        "guildmesh.task-events.v1",
        bootstrap_servers=mesh.kafka_bootstrap_servers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        group_id=None,
    )
    async with consumer:
        end = time.monotonic() + 30
        while any(number not in values[task_id] for task_id, number in last.items()) and time.monotonic() < end:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    known = values.get((record.key or b"").decode())
                    if known is not None:
                        number = int(dict(record.headers)["ce_sequence"])
                        # A relay that died between Kafka's commit and the database's may send the very same again.
                        assert known.setdefault(number, record.value) == record.value
    return {task_id: list(known) for task_id, known in values.items()}


def test_kafkas_own_console_consumer_reads_a_tasks_events_in_order_with_their_headers(mesh: RunningMesh) -> None:
    headers = {"Authorization": f"Bearer {mesh.token()}"}
    answer = httpx.post(f"{mesh.url}/task", json={"task": "Say yes."}, headers=headers).json()
    url = f"{mesh.url}/v1/tasks/{answer['task_id']}"
    httpx.get(f"{url}/events", headers=headers, timeout=60).raise_for_status()  # ends with the task
    count = httpx.get(url, headers=headers).json()["last_event_number"]
    records = console_consumer(mesh.kafka_bootstrap_servers, "guildmesh.task-events.v1", key=answer["task_id"], count=count)
    assert [int(record.headers["ce_sequence"]) for record in records] == list(range(1, count + 1))
    assert records[0].headers["ce_type"] == "guildmesh.task.created.v1"
    assert records[-1].headers["ce_type"] == "guildmesh.task.completed.v1"
    for record in records:
        assert record.headers["ce_specversion"] == "1.0"
        assert record.headers["ce_id"] == f"{answer['task_id']}/{int(record.headers['ce_sequence'])}"
        assert record.headers["content-type"] == "application/protobuf"
        assert {"ce_source", "ce_time", "ce_tenantid", "ce_subject", "traceparent"} <= set(record.headers)
