"""The demo: a researcher, a coder and an analyst write a report on the real mesh, seen event by event (`make demo`).

Starts the mesh if need be, submits the scenario of `examples/sales-report` through REST, prints each event as Kafka delivers it,
computes the figures again from the files, and ends with the report. Exit code 1 when anything is not as it must be.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

# The script runs from a checkout; its own folder is on the path, the other modules lie beside it.
from sales_report import Mismatch, check_result, load
from watch_events import EventLog, MissingEvents, TaskEvents, topic_of

FOLDER = Path(__file__).resolve().parent / "sales-report"
RUN_TIMEOUT_SECONDS = 240
# How long a service may be away before the demo gives up: as long as the mesh may need to start one again.
OUTAGE_SECONDS = 60

console = Console()


class DemoFailed(Exception):
    """The demo cannot go on; the message says why and what to do."""


def main() -> int:
    """Runs the demo; gives the exit code."""
    try:
        return asyncio.run(demo(mesh_environment()))
    except (DemoFailed, Mismatch, MissingEvents, KafkaError) as error:
        console.print(f"[bold red]The demo failed:[/] {escape(str(error))}")
        console.print("Look at [bold].venv/bin/guildmesh status[/] and [bold].venv/bin/guildmesh logs NAME[/].", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


def mesh_environment() -> dict[str, str]:
    """Starts the mesh, or finds the one that runs; gives what `guildmesh env` exports."""
    guildmesh = str(Path(sys.executable).parent / "guildmesh")
    if subprocess.run([guildmesh, "up", "--detach"]).returncode != 0:
        raise DemoFailed("the mesh did not start; the lines above say why.")
    answer = subprocess.run([guildmesh, "env"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise DemoFailed(f"`guildmesh env` failed: {answer.stderr.strip()}")
    exports: dict[str, str] = {}
    for line in answer.stdout.splitlines():
        words = shlex.split(line)
        if len(words) == 2 and words[0] == "export":
            name, _, value = words[1].partition("=")
            exports[name] = value
    for name in ("GUILDMESH_URL", "GUILDMESH_TOKEN", "KAFKA_BOOTSTRAP_SERVERS"):
        exports.setdefault(name, os.environ.get(name, ""))
        if not exports[name]:
            raise DemoFailed(f"`guildmesh env` gives no {name}; set it, as for a mesh in production.")
    return exports


async def demo(env: dict[str, str]) -> int:
    """Submits the scenario, follows it and checks what came of it."""
    headers = {"authorization": f"Bearer {env['GUILDMESH_TOKEN']}"}
    files = load(FOLDER)
    # The gateway is on this machine unless GUILDMESH_URL says otherwise; a proxy is only asked for other hosts.
    proxied = not env["GUILDMESH_URL"].startswith(("http://127.", "http://localhost"))
    async with (
        httpx.AsyncClient(base_url=env["GUILDMESH_URL"], headers=headers, timeout=30, trust_env=proxied) as client,
        TaskEvents(env["KAFKA_BOOTSTRAP_SERVERS"], topic_of(env, env["GUILDMESH_TOKEN"])) as events,
    ):
        for agent in files.agents:
            await create(client, "/v1/agents", agent)
        scenario_id = await store_scenario(client, files.scenario)
        body = {"inputs": files.inputs, "request_id": str(uuid.uuid4()), "timeout": RUN_TIMEOUT_SECONDS}
        run = (await call(client, "POST", f"/v1/scenarios/{scenario_id}:run", body)).json()
        console.print(
            f"\nRun [bold]{run['task_id']}[/] of the scenario [bold]{scenario_id}[/]; its events, as Kafka delivers them:",
            highlight=False,
            soft_wrap=True,
        )
        log = EventLog(run["task_id"])
        task = await follow(client, events, log, len(files.scenario["steps"]))
    if task["status"] != "completed":
        error = task.get("error", {})
        raise DemoFailed(f"the run {task['status']}: {error.get('reason', '')}: {error.get('message', '')}")
    log.check_complete([step["task_id"] for step in task["result"]["steps"].values()])
    check_result(task["result"], files)
    show(task, log, env)
    return 0


async def follow(client: httpx.AsyncClient, events: TaskEvents, log: EventLog, steps: int) -> dict[str, Any]:
    """Prints events until the run has ended and every event of it has come; gives the task."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("agents at work", total=steps)
        try:
            async with asyncio.timeout(RUN_TIMEOUT_SECONDS + OUTAGE_SECONDS):
                while not log.ended:
                    for event in await events.next(seconds=1.0):
                        if line := log.add(event):
                            progress.console.print(line, highlight=False, soft_wrap=True)
                    progress.update(bar, completed=log.completed_steps)
        except TimeoutError:
            raise DemoFailed("Kafka did not deliver the run's last event; is the relay healthy?") from None
        return dict((await call(client, "GET", f"/v1/tasks/{log.run_id}")).json())


async def store_scenario(client: httpx.AsyncClient, scenario: dict[str, Any]) -> str:
    """Creates the scenario unless the same one is there; a changed one gets a name of its own."""
    if await create(client, "/v1/scenarios", scenario):
        return str(scenario["scenario_id"])
    stored = (await call(client, "GET", f"/v1/scenarios/{scenario['scenario_id']}")).json()
    if same_plan(stored, scenario):
        return str(scenario["scenario_id"])
    digest = hashlib.sha256(json.dumps(scenario, sort_keys=True).encode()).hexdigest()[:8]
    renamed = scenario | {"scenario_id": f"{scenario['scenario_id']}-{digest}"}
    await create(client, "/v1/scenarios", renamed)
    return str(renamed["scenario_id"])


def same_plan(stored: dict[str, Any], scenario: dict[str, Any]) -> bool:
    """Whether two scenarios have the same steps and result; fields at their defaults may be left out."""

    def plan(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plan(item) for name, item in value.items() if item not in (None, "", 0, [], {})}
        return [plan(item) for item in value] if isinstance(value, list) else value

    return all(plan(stored.get(name)) == plan(scenario.get(name)) for name in ("steps", "result"))


async def create(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> bool:
    """Creates something; False when it is there already."""
    response = await call(client, "POST", path, body, also=409)
    return response.status_code != 409


async def call(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None, *, also: int = 200
) -> httpx.Response:
    """Calls the mesh through REST, again and again while it is away: every call of the demo is safe to repeat."""
    pause = 0.2
    deadline = asyncio.get_running_loop().time() + OUTAGE_SECONDS
    while True:
        try:
            response = await client.request(method, path, json=body)
            problem = f"{method} {path} answered {response.status_code}: {response.text[:1000]}"
            if response.status_code in (200, also):
                return response
            if response.status_code not in (429, 502, 503, 504):
                raise DemoFailed(problem)
        except httpx.TransportError as error:
            problem = f"{method} {path}: {error}"
        if asyncio.get_running_loop().time() > deadline:
            raise DemoFailed(problem)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2.0)


def show(task: dict[str, Any], log: EventLog, env: dict[str, str]) -> None:
    """The report, what was checked, and how to go on."""
    result = task["result"]
    console.print()
    console.print(Markdown(result["result"]["report"]))
    console.print(
        f"\n[green]✓[/] figures computed again from the files: the same\n"
        f"[green]✓[/] {result['model_calls']} calls of the language model, "
        f"{result['input_tokens']} tokens read, {result['output_tokens']} written\n"
        f"[green]✓[/] {log.count} events of {log.tasks} tasks on Kafka, each task's numbered 1..N without a gap",
        highlight=False,
    )
    lines = [
        "The mesh stays up. Go on with:",
        "",
        '  eval "$(.venv/bin/guildmesh env)"',
        f'  curl -s "$GUILDMESH_URL/v1/tasks/{task["task_id"]}" -H "authorization: Bearer $GUILDMESH_TOKEN"',
        '  curl -s "$GUILDMESH_URL/chat" -H "authorization: Bearer $GUILDMESH_TOKEN" -d \'{"message": "Hello!"}\'',
        '  curl -s "$GUILDMESH_URL/task" -H "authorization: Bearer $GUILDMESH_TOKEN" -d \'{"task": "Name three kinds of tea."}\'',
        f"  open {env['GUILDMESH_URL']}/docs, and see .venv/bin/guildmesh --help",
        "  make down",
    ]
    console.print("\n" + "\n".join(lines), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
