"""Tasks with many events, readers on every channel, and kills of what carries the events and of the readers themselves."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg2
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh_client.tasks import TaskClient

from services.embedded.ports import free_ports
from services.scheduler.storage.event_log import split
from tests.faults.channels.readers import CHANNELS, KIND, SETTINGS
from tests.faults.channels.record import compare, digest, read, seen_in
from tests.faults.outcome import Outcome
from tests.support.mesh import RunningMesh

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("scheduler", "relay", "kafka", "webhooks")
READERS = {f"{channel} reader": channel for channel in CHANNELS}
"""whom else to kill, by names that no part has."""
_LOGS = """
SELECT task_id::text, log FROM scheduler.finished_tasks WHERE kind = %s AND task_id = ANY(%s::uuid[])
"""
_MORE = "SELECT task_id::text, value FROM scheduler.task_events WHERE task_id = ANY(%s::uuid[]) ORDER BY task_id, number"
_HEALTHY_SECONDS = 90.0


class Readers:
    """The processes that read; one that is killed begins again at once."""

    def __init__(self, settings: Mapping[str, object], log: Path) -> None:
        self._environment = {**os.environ, SETTINGS: json.dumps(settings)}
        self._log = log
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for channel in CHANNELS:
            self._start(channel)

    def kill(self, channel: str) -> None:
        """kill -9 of a reader, which then goes on behind what its notebook has."""
        self._processes[channel].kill()
        self._processes[channel].wait()
        self._start(channel)

    def stop(self) -> None:
        """Ends all."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start(self, channel: str) -> None:
        with self._log.open("ab") as log:
            self._processes[channel] = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.channels.readers", channel], env=self._environment, stderr=log, cwd=ROOT
            )


async def channels(
    mesh: RunningMesh, folder: Path, *, tasks: int, steps: int, kills: int, least_events: int, patience: float, seed: int = 1
) -> Outcome:
    """Every reader sees, of each task, the events that the tables have: 1..N, in order, what they say, and enough of them.

    After the last kill the tasks have `patience` seconds to end, and then the readers as many to catch up: what a scheduler and
    Kafka need to come back, and readers to find them, however the kill was timed.
    """
    begun = time.monotonic()
    chance = random.Random(seed)
    token = mesh.token()
    settings: dict[str, object] = {
        "folder": str(folder),
        "token": token,
        "grpc": mesh.grpc_target,
        "url": mesh.url,
        "kafka": mesh.kafka_bootstrap_servers,
        "since": time.time() - 1,
    }
    [settings["webhook_port"]] = free_ports(1)
    settings["webhook_secret"] = _webhook(mesh, token, int(str(settings["webhook_port"])))
    told: list[str] = []
    with ExitStack() as stack:
        readers = Readers(settings, folder / "readers.log")
        stack.callback(readers.stop)
        worker = _talker(mesh.grpc_target, token)
        stack.callback(_end, worker)
        async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
            client = TaskClient(channel, [("authorization", f"Bearer {token}")], timeout=600.0)
            created = [
                client.create(
                    "talk",
                    kind=KIND,
                    context={"steps": steps},
                    timeout=3600,
                    max_attempts=20,
                    request_id=f"channels-{seed}-{number}-{begun}",
                )
                for number in range(tasks)
            ]
            ids = list(await asyncio.gather(*created))
            endings = [asyncio.create_task(_end_of(client, task_id), name=task_id) for task_id in ids]
            for victim in _victims(chance, kills):
                # Some work between two kills, which is not the same after each.
                await asyncio.sleep(chance.uniform(0.5, 3.0))
                told.append(victim)
                if victim in PARTS:
                    await asyncio.to_thread(mesh.kill, victim)
                    await asyncio.to_thread(mesh.wait_healthy, _HEALTHY_SECONDS)
                else:
                    readers.kill(READERS[victim])
            problems = await _ended(endings, patience)
        table = await asyncio.to_thread(_table, mesh.exports()["DATABASE_URL"], ids)
        problems += await _caught_up(folder, table, patience)
    problems += [f"{task_id} has only {len(events)} events" for task_id, events in table.items() if len(events) < least_events]
    problems += [] if kills == len(told) else [f"only {len(told)} of {kills} kills"]
    events = sum(map(len, table.values()))
    figures: dict[str, Any] = {"kills": {victim: told.count(victim) for victim in sorted(set(told))}}
    figures |= {f"repeats on {channel}": seen_in(folder / f"{channel}.events", channel).repeats for channel in CHANNELS}
    size = {"tasks": len(table), "events": events, "operations": len(told)}
    return Outcome("channels", f"{tasks} tasks, {kills} kills", seed, problems[:20], size, time.monotonic() - begun, figures)


def _victims(chance: random.Random, kills: int) -> list[str]:
    """Whom to kill, one after another: each as often as the others."""
    victims: list[str] = []
    while len(victims) < kills:
        victims += chance.sample((*PARTS, *READERS), len(PARTS) + len(READERS))
    return victims[:kills]


def _webhook(mesh: RunningMesh, token: str, port: int) -> str:
    """Creates the webhook; gives its secret."""
    wanted = {"url": f"http://127.0.0.1:{port}/hook", "filter": f"kind = {KIND}"}
    response = httpx.post(f"{mesh.url}/v1/webhooks", json=wanted, headers={"authorization": f"Bearer {token}"})
    assert response.status_code == httpx.codes.OK, response.text
    return str(response.json()["secret"])


async def _end_of(client: TaskClient, task_id: str) -> None:
    """Waits for the end of a task by its own stream, which must also tell each number once."""
    number, last = 0, ""
    async for event in client.watch(task_id):
        assert event.number == number + 1, f"WatchTask gave {event.number} of {task_id} after {number}"
        number, last = event.number, event.type
    assert last == "guildmesh.task.completed.v1", f"{task_id} ended with {last}"


async def _ended(endings: Sequence[asyncio.Task[None]], patience: float) -> list[str]:
    """The tasks that did not end in time, or whose streams told something else than they should."""
    done, late = await asyncio.wait(endings, timeout=patience)
    for ending in late:
        ending.cancel()
    wrong = [f"{ending.get_name()}: {error!r}" for ending in done if (error := ending.exception()) is not None]
    return [*wrong, *(f"WatchTask did not tell the end of {ending.get_name()}" for ending in late)]


async def _caught_up(folder: Path, table: Mapping[str, Sequence[str]], patience: float) -> list[str]:
    """What is wrong once the readers have all there is, or had the time for it."""
    wanted = sum(map(len, table.values()))
    until = time.monotonic() + patience
    while time.monotonic() < until:
        kept = [sum(1 for _ in read(folder / f"{channel}.events")) for channel in CHANNELS]
        if min(kept) >= wanted and not _problems(folder, table):
            break
        await asyncio.sleep(1.0)
    return _problems(folder, table)


def _problems(folder: Path, table: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        problem for channel in CHANNELS for problem in compare(channel, seen_in(folder / f"{channel}.events", channel), table)
    ]


def _table(url: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """The digests of the events of each task, as the tables have them."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
            cursor.execute(_LOGS, (KIND, list(ids)))
            found = {task_id: list(split(bytes(log))) for task_id, log in cursor.fetchall()}
            cursor.execute(_MORE, (list(ids),))
            for task_id, value in cursor.fetchall():
                found.setdefault(task_id, []).append(bytes(value))
    finally:
        connection.close()
    return {task_id: [digest(TaskEvent.FromString(value)) for value in values] for task_id, values in found.items()}


def _talker(target: str, token: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "GUILDMESH_TOKEN": token}
    return subprocess.Popen([sys.executable, "-m", "tests.faults.channels.talker", target], env=environment, cwd=ROOT)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
