"""Workers in other languages, from examples/workers: they run tasks through the gateway, and are killed in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.example_workers import BUILDS, EXAMPLES
from tests.support.mesh import RunningMesh

KIND = "example.word-count"
QUEUE = "words"
pytestmark = [pytest.mark.acceptance, pytest.mark.toolchain, pytest.mark.timeout(400)]


class Tasks:
    """The REST surface, as an administrator of a tenant of its own."""

    def __init__(self, mesh: RunningMesh) -> None:
        name = uuid.uuid4().hex[:12]
        self.token = mesh.token(f"ada-{name}", tenant=f"workers-{name}", roles=("admin",))
        self._http = httpx.Client(base_url=mesh.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)
        self._ok(self._http.post("/v1/queues", json={"queue": QUEUE}))

    def close(self) -> None:
        self._http.close()

    def create(self, text: str = "one two three", seconds: float = 0.0) -> str:
        task = {"queue": QUEUE, "kind": KIND, "description": text, "context": {"seconds": seconds}}
        return str(self._ok(self._http.post("/v1/tasks", json=task))["task_id"])

    def get(self, task_id: str) -> dict[str, Any]:
        return self._ok(self._http.get(f"/v1/tasks/{task_id}"))

    def cancel(self, task_id: str) -> None:
        self._ok(self._http.post(f"/v1/tasks/{task_id}:cancel", json={}))

    def changes(self, task_id: str, until: str = "") -> list[str]:
        """What happened to a task, such as "started", to its end or to the first `until`."""
        return [name for name, _ in self._events(task_id, until)]

    def worker(self, task_id: str, until: str = "") -> str:
        """The id of the worker that started it last, before it ended or `until` happened first."""
        events = self._events(task_id, until)
        return [str(data["started"]["worker_id"]) for name, data in events if name == "started"][-1]

    def _events(self, task_id: str, until: str) -> list[tuple[str, dict[str, Any]]]:
        events: list[tuple[str, dict[str, Any]]] = []
        name = ""
        with self._http.stream("GET", f"/v1/tasks/{task_id}/events") as stream:
            for line in stream.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value.removeprefix("guildmesh.task.").removesuffix(".v1")
                elif field == "data" and name != "end":
                    events.append((name, json.loads(value)))
                    if name == until:
                        break
        return events

    @staticmethod
    def _ok(answer: httpx.Response) -> dict[str, Any]:
        assert answer.is_success, answer.text
        return dict(json.loads(answer.text))


@pytest.fixture
def tasks(mesh: RunningMesh) -> Iterator[Tasks]:
    """Tasks of a tenant with a queue of its own: a worker of the test before, of whose end nobody knows yet, gets none."""
    client = Tasks(mesh)
    yield client
    client.close()


class Worker:
    """A worker process of one language."""

    def __init__(self, language: str, command: list[str], mesh: RunningMesh, token: str) -> None:
        self.language = language
        environment = {**os.environ, "GUILDMESH_URL": mesh.url, "GUILDMESH_TOKEN": token}
        self.process = subprocess.Popen(command, env=environment)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for the end of the process; gives its code."""
        return self.process.wait(timeout=30)


Start = Callable[[str], Worker]


@pytest.fixture
def start(worker_commands: dict[str, list[str]], mesh: RunningMesh, tasks: Tasks) -> Iterator[Start]:
    """Starts workers by their language; what still runs at the end is killed."""
    workers: list[Worker] = []

    def started(language: str) -> Worker:
        workers.append(Worker(language, worker_commands[language], mesh, tasks.token))
        return workers[-1]

    yield started
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


@pytest.mark.parametrize("path", ["go/main.go", "typescript/worker.ts"])
def test_each_is_short_enough_to_read_at_once(path: str) -> None:
    assert len((EXAMPLES / path).read_text().splitlines()) < 110


@pytest.mark.parametrize("language", sorted(BUILDS))
def test_a_worker_runs_tasks_and_a_cancelled_one_makes_room(start: Start, tasks: Tasks, language: str) -> None:
    worker = start(language)
    quick = {tasks.create("word " * number): number for number in range(1, 9)}
    for task_id, number in quick.items():
        assert tasks.changes(task_id) == ["created", "started", "completed"]
        assert tasks.get(task_id)["result"] == number
        assert tasks.worker(task_id).startswith(language)
    # As many as it runs at once, and more: only a cancelled one makes room for the last.
    long = [tasks.create(seconds=300) for _ in range(4)]
    tasks.changes(long[0], until="started")
    last = tasks.create("the last")
    for task_id in long:
        tasks.cancel(task_id)
    assert tasks.changes(last)[-1] == "completed"
    assert worker.process.poll() is None


def busy_workers(start: Start, tasks: Tasks, seconds: float = 2) -> tuple[list[Worker], list[str]]:
    """A worker of each language, and the tasks that they run."""
    workers: list[Worker] = []
    ids: list[str] = []
    # Which of the two gets a task is not ours to say.
    for language in ("go", "typescript"):
        workers.append(start(language))
        ids.append(tasks.create("one two three", seconds=seconds))
        while not tasks.worker(ids[-1], until="started").startswith(language):
            ids.append(tasks.create("one two three", seconds=seconds))
    return workers, ids


def test_killed_and_paused_workers_and_a_killed_scheduler_lose_and_double_nothing(
    mesh: RunningMesh, start: Start, tasks: Tasks
) -> None:
    lost: dict[str, str] = {}
    paused: list[Worker] = []
    for language in BUILDS:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            worker = start(language)
            # A paused one must have no credit left, or the next task would be its.
            # They run for as long as a busy machine may need to start four streams, or one of them would run two.
            ids = [tasks.create("one two three", seconds=6) for _ in range(4)]
            lost |= {task_id: tasks.worker(task_id, until="started") for task_id in ids}
            worker.send(number)
            if number is signal.SIGSTOP:
                paused.append(worker)
    # A Go worker is one for each of its streams.
    assert len(set(lost.values())) == 10
    # While their leases run out, the scheduler dies under two other workers: these keep what they run.
    _, kept = busy_workers(start, tasks)
    # What they tell while it hangs is lost with it: they tell it again.
    mesh.kill("scheduler", signal.SIGSTOP)
    # Longer than the runs: that their results are under way to one who does not listen can be seen nowhere.
    time.sleep(2.5)
    mesh.kill("scheduler")
    mesh.wait_healthy()
    for task_id in kept:
        assert tasks.changes(task_id) == ["created", "started", "completed"]
        assert tasks.get(task_id)["result"] == 3
    for task_id, first in lost.items():
        assert tasks.changes(task_id) == ["created", "started", "retried", "started", "completed"]
        assert tasks.worker(task_id) != first
    # Who comes back later stops what it ran, or is refused: the task has ended once, by the second attempt.
    for worker in paused:
        worker.send(signal.SIGCONT)
        worker.send(signal.SIGTERM)
    assert [worker.ended() for worker in paused] == [0, 0]
    for task_id in lost:
        task = tasks.get(task_id)
        assert (task["status"], task["attempt"], task["result"], task["last_event_number"]) == ("completed", 2, 3, 5)


def test_a_terminated_worker_ends_its_run_first(start: Start, tasks: Tasks) -> None:
    workers, ids = busy_workers(start, tasks)
    for worker in workers:
        worker.send(signal.SIGTERM)
    assert [worker.ended() for worker in workers] == [0, 0]
    for task_id in ids:
        assert tasks.changes(task_id) == ["created", "started", "completed"]


def test_a_terminated_worker_whose_last_run_is_cancelled_ends_too(start: Start, tasks: Tasks) -> None:
    workers, ids = busy_workers(start, tasks, seconds=300)
    for worker in workers:
        worker.send(signal.SIGTERM)
    # Nothing is acknowledged of a cancelled run: that it was the last one the worker has to see by itself.
    for task_id in ids:
        tasks.cancel(task_id)
    assert [worker.ended() for worker in workers] == [0, 0]
