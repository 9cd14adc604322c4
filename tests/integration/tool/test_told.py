"""What is told of executions: in the logs of their tasks, and on Kafka, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import psycopg2
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.events.v1.tool_usage_pb2 import ToolOutcome, ToolUsage
from guildmesh.scheduler.v1 import scheduler_service_pb2, task_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc
from guildmesh.tool.v1 import tool_service_pb2 as pb
from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.common.db.migrations import migrate
from services.common.failpoints import CRASH_STATUS
from services.common.grpcx.channel import secure_channel
from services.common.ids import new_id
from services.embedded.ports import free_ports
from services.scheduler.bootstrap import open_service as open_scheduler
from services.scheduler.storage.event_log import split
from services.tool.bootstrap import open_service
from services.tool.settings import ToolSettings
from tests.integration.scheduler.conftest import BareWorker, MakeSettings, Scheduler, scheduler_settings, scheduler_tls, unique  # noqa: F401 - fixtures
from tests.integration.scheduler.processes import Process
from tests.integration.tool.conftest import Make, Tool, someone, struct
from tests.support.described import CHANNELS, check_record
from tests.support.service import metadata, running


@dataclass
class Pair:
    """A scheduler and a tool service, in the name of one user."""

    scheduler: Scheduler
    tool: Tool
    topic: str
    kafka: str
    settings: ToolSettings
    tls: Path

    async def owners(self) -> int:
        """How many processes of the tool service have lanes."""
        database = await asyncpg.connect(self.settings.database_url.get_secret_value())
        try:
            await database.execute("SET ROLE tool_engine")
            found: int = await database.fetchval("SELECT count(DISTINCT owner) FROM tool.relay_lanes")
            return found
        finally:
            await database.close()


@pytest.fixture
async def pair(
    scheduler_settings: MakeSettings,  # noqa: F811 - the fixture
    scheduler_tls: Path,  # noqa: F811 - the fixture
    make_settings: Make,
    tool_tls: Path,
    kafka_bootstrap_servers: str,
) -> AsyncIterator[Pair]:
    settings = scheduler_settings(lease_seconds=20.0)
    async with running(open_scheduler, settings, scheduler_tls) as server:
        topic = unique("usage")
        mine = make_settings(
            tls_dir=scheduler_tls / "tool",
            scheduler_target=server.target,
            kafka_bootstrap_servers=kafka_bootstrap_servers,
            usage_topic=topic,
            lane_lease_seconds=1.5,
        )
        async with running(open_service, mine, scheduler_tls) as tool_server:
            scheduler = Scheduler(server)
            tool = Tool(tool_server, pb_grpc.ToolServiceStub(tool_server.channel()), scheduler.ada)
            yield Pair(scheduler, tool, topic, kafka_bootstrap_servers, mine, scheduler_tls)


@asynccontextmanager
async def reading(kafka: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest", enable_auto_commit=False
    )
    consumer.assign([TopicPartition(topic, partition) for partition in range(16)])
    await consumer.start()
    try:
        await consumer.seek_to_beginning()
        yield consumer
    finally:
        await consumer.stop()


async def usages_of(kafka: str, topic: str, tenant_id: str, number: int) -> list[Any]:
    """The records of a tenant, once there are so many."""
    records: list[Any] = []
    async with reading(kafka, topic) as consumer, asyncio.timeout(30):
        while len(records) < number:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records += [record for record in batch if record.key == tenant_id.encode()]
    return records


async def test_a_tool_that_an_attempt_calls_is_in_its_log_before_the_answer_and_on_kafka(pair: Pair) -> None:
    task = await pair.scheduler.create()
    async with pair.scheduler.worker() as worker:
        lease = await worker.lease()
        step = {"task_id": task.task_id, "attempt": 1}
        done = await pair.tool.python("result = arguments; print('hello')", step_id="one", **step)
        failed = await pair.tool.python("1/0", step_id="two", **step)
        large = await pair.tool.python("result = 'x' * 70_000", step_id="three", **step)
        # A repeat is no run, and a call without a task is in no log.
        assert (await pair.tool.python("result = 1", step_id="one", **step)).replayed
        alone = await pair.tool.python("result = 1")
        await worker.complete(lease)
    events = await pair.scheduler.watch(task.task_id)
    changes = [event.WhichOneof("change") for event in events]
    assert changes == ["created", "started", *["tool_called", "tool_returned"] * 3, "completed"]
    called, returned = events[2].tool_called, events[3].tool_returned
    assert (called.execution_id, called.run, called.attempt, called.step_id) == (done.execution_id, 1, 1, "one")
    assert (called.tool_name, called.effect, events[2].actor, events[2].source) == ("python", "PURE", "ada", "tool")
    assert called.arguments_bytes > 0
    assert called.traceparent.count("-") == 3
    assert called.call_time.ToDatetime() <= events[2].event_time.ToDatetime()
    assert (returned.execution_id, ToolOutcome.Name(returned.outcome)) == (done.execution_id, "TOOL_OUTCOME_SUCCEEDED")
    assert (returned.output_bytes, returned.result_bytes, returned.HasField("result")) == (6, 4, True)
    assert returned.duration.ToTimedelta().total_seconds() > 0
    assert ToolOutcome.Name(events[5].tool_returned.outcome) == "TOOL_OUTCOME_FAILED"
    assert "ZeroDivisionError" in events[5].tool_returned.error
    # A body of more than 64 KiB is in no event.
    assert (events[7].tool_returned.result_bytes, events[7].tool_returned.HasField("result")) == (70_002, False)
    assert all(not usage.log_refusal for usage in await pair.tool.usages())

    records = await usages_of(pair.kafka, pair.topic, pair.tool.caller.tenant_id, 4)
    assert {check_record(record, CHANNELS["guildmesh.tool-usage.v1"]) for record in records} == {"guildmesh.tool.used.v1"}
    assert len({record.partition for record in records}) == 1
    found = [ToolUsage.FromString(record.value) for record in records]
    assert [usage.execution_id for usage in found] == [each.execution_id for each in (done, failed, large, alone)]
    assert [(usage.tool_name, usage.principal, usage.tenant_id) for usage in found] == [
        ("python", "ada", pair.tool.caller.tenant_id)
    ] * 4
    assert [usage.task_id for usage in found] == [task.task_id] * 3 + [""]
    headers = {name: value.decode() for name, value in records[0].headers}
    assert headers["ce_type"] == "guildmesh.tool.used.v1"
    assert headers["ce_id"] == f"{done.execution_id}/1"
    assert headers["ce_subject"] == done.execution_id
    assert headers["ce_tenantid"] == pair.tool.caller.tenant_id
    assert headers["traceparent"] == called.traceparent


async def test_an_event_that_comes_too_late_for_its_log_is_told_in_the_ledger(pair: Pair) -> None:
    task = await pair.scheduler.create()
    async with pair.scheduler.worker() as worker:
        lease = await worker.lease()
        await worker.fail(lease, retryable=True)
        await worker.lease()
        await pair.tool.python("result = 1", task_id=task.task_id, attempt=1, step_id="stale")
        await pair.scheduler.cancel(task.task_id)
    await pair.tool.python("result = 1", task_id=task.task_id, attempt=2, step_id="late")
    await pair.tool.python("result = 1", task_id=new_id(), attempt=1, step_id="nowhere")
    refusals = {usage.step_id: usage.log_refusal for usage in await pair.tool.usages()}
    assert refusals == {"stale": "STALE_ATTEMPT", "late": "TASK_ENDED", "nowhere": "TASK_NOT_FOUND"}
    assert [event.WhichOneof("change") for event in await pair.scheduler.watch(task.task_id)][-1] == "cancelled"
    # They are on Kafka all the same.
    assert len(await usages_of(pair.kafka, pair.topic, pair.tool.caller.tenant_id, 3)) == 3


async def test_any_process_tells_what_another_has_written_down(pair: Pair) -> None:
    async with running(open_service, pair.settings, pair.tls) as other:
        stub: pb_grpc.ToolServiceAsyncStub = pb_grpc.ToolServiceStub(other.channel())
        async with asyncio.timeout(20):
            while await pair.owners() < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        second = Tool(other, stub, pair.tool.caller)
        async with pair.scheduler.worker() as worker:
            tasks = [(await pair.scheduler.create()).task_id for _ in range(6)]
            leases = [await worker.lease() for _ in tasks]
            for task_id in tasks:
                for tool in (pair.tool, second):
                    await tool.python("result = 1", task_id=task_id, attempt=1, step_id=new_id())
            for lease in leases:
                await worker.complete(lease)
    for task_id in tasks:
        changes = [event.WhichOneof("change") for event in await pair.scheduler.watch(task_id)]
        assert changes == ["created", "started", *["tool_called", "tool_returned"] * 2, "completed"]
    records = await usages_of(pair.kafka, pair.topic, pair.tool.caller.tenant_id, 12)
    assert len({dict(record.headers)["ce_id"] for record in records}) == 12


class Mesh:
    """A scheduler and a tool service as processes, which failpoints in a file can kill."""

    def __init__(self, url: str, tls: Path, kafka: str, folder: Path) -> None:
        self.url, self.kafka, self.topic, self.rules = url, kafka, unique("usage"), folder / "rules"
        self.caller = someone()
        ports = free_ports(2)
        common = {
            "DATABASE_URL": url,
            "DB_POOL_SIZE": "8",
            "GUILDMESH_ADMIN_PORT": "0",
            "GUILDMESH_DRAIN_SECONDS": "0",
            "GUILDMESH_FAILPOINTS_FILE": str(self.rules),
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "GUILDMESH_SCHEDULER_TARGET": f"localhost:{ports[0]}",
        }
        scheduler = {
            "GUILDMESH_TLS_DIR": str(tls / "scheduler"),
            "GUILDMESH_PORT": str(ports[0]),
            "GUILDMESH_LEASE_SECONDS": "60",
        }
        tool = {
            "GUILDMESH_TLS_DIR": str(tls / "tool"),
            "GUILDMESH_PORT": str(ports[1]),
            "GUILDMESH_SANDBOX": "bubblewrap",
            "GUILDMESH_TOOL_USAGE_TOPIC": self.topic,
            "GUILDMESH_TOOL_LANE_SECONDS": "1",
        }
        self.processes = {
            "scheduler": Process("services.scheduler", common | scheduler, folder / "scheduler.log"),
            "tool": Process("services.tool", common | tool, folder / "tool.log"),
        }
        self.channels = {
            name: secure_channel(f"localhost:{port}", name, tls / "gateway")
            for name, port in zip(self.processes, ports, strict=True)
        }
        self.stub: pb_grpc.ToolServiceAsyncStub = pb_grpc.ToolServiceStub(self.channels["tool"])
        self.tasks: scheduler_grpc.SchedulerServiceAsyncStub = scheduler_grpc.SchedulerServiceStub(self.channels["scheduler"])

    async def execute(self, tool_name: str, arguments: dict[str, Any], task_id: str, step_id: str) -> str:
        """Executes until there is an answer; gives the outcome or the reason why there is none."""
        request = pb.ExecuteToolRequest(
            tool_name=tool_name, arguments=struct(arguments), task_id=task_id, attempt=1, step_id=step_id
        )
        async with asyncio.timeout(60):
            while True:
                try:
                    answer = await self.stub.ExecuteTool(request, metadata=metadata(self.caller), timeout=20, wait_for_ready=True)
                    return "TOOL_OUTCOME_SUCCEEDED" if answer.success else "TOOL_OUTCOME_FAILED"
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                        return "TOOL_OUTCOME_UNKNOWN"
                    await asyncio.sleep(0.1)

    async def die_at(self, name: str, point: str) -> None:
        """Waits until the process is dead by a failpoint, and starts it again."""
        async with asyncio.timeout(30):
            assert await self.processes[name].ended() == CRASH_STATUS, point
        self.rules.write_text("")
        await self.processes[name].start()

    def query(self, role: str, statement: str, *arguments: object) -> list[Any]:
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(f"SET ROLE {role}")
                cursor.execute(statement, arguments)
                return list(cursor.fetchall()) if cursor.description is not None else []
        finally:
            connection.close()

    def events(self, task_id: str) -> list[TaskEvent]:
        [[log]] = self.query("scheduler_engine", "SELECT log FROM scheduler.tasks WHERE task_id = %s", task_id)
        long = self.query(
            "scheduler_engine", "SELECT value FROM scheduler.task_events WHERE task_id = %s ORDER BY number", task_id
        )
        return [TaskEvent.FromString(value) for value in (*split(bytes(log)), *(bytes(row[0]) for row in long))]

    def ledger(self) -> dict[str, tuple[int, str, str]]:
        """Run, outcome and refusal of each execution."""
        rows = self.query("tool_engine", "SELECT execution_id::text, run, state, exit_code, log_refusal FROM tool.executions")
        names = {"unknown": "TOOL_OUTCOME_UNKNOWN", "running": "RUNNING"}
        return {
            execution_id: (run, names.get(state) or f"TOOL_OUTCOME_{'FAILED' if code else 'SUCCEEDED'}", refusal)
            for execution_id, run, state, code, refusal in rows
        }


@pytest.fixture
async def mesh(
    scheduler_settings: MakeSettings,  # noqa: F811 - the fixture
    scheduler_tls: Path,  # noqa: F811 - the fixture
    make_settings: Make,
    empty_database_url: str,
    kafka_bootstrap_servers: str,
    tmp_path: Path,
) -> AsyncIterator[Mesh]:
    own = {"database_url": SecretStr(empty_database_url)}
    migrate(scheduler_settings(**own), package="services.scheduler.storage.migrations", schema="scheduler")
    migrate(make_settings(**own), package="services.tool.storage.migrations", schema="tool")
    mesh = Mesh(empty_database_url, scheduler_tls, kafka_bootstrap_servers, tmp_path)
    for process in mesh.processes.values():
        await process.start()
    try:
        yield mesh
    finally:
        for channel in mesh.channels.values():
            await channel.close()
        codes = [await process.stop() for process in mesh.processes.values()]
    assert codes == [0, 0], "".join(process.tail() for process in mesh.processes.values())


POINTS = (
    ("tool", "tool.append.after_answer"),
    ("tool", "tool.settle.before_commit"),
    ("tool", "tool.publish.after_commit"),
    ("scheduler", "scheduler.append.after_commit"),
)


async def test_each_run_is_in_the_log_once_as_the_ledger_has_it_whoever_is_killed(mesh: Mesh) -> None:
    kind = unique("kind")
    create = scheduler_service_pb2.CreateTaskRequest(task=task_pb2.Task(description="d", kind=kind))
    caller = metadata(mesh.caller)
    task = await mesh.tasks.CreateTask(create, metadata=caller, wait_for_ready=True, timeout=30)
    # Its lease outlives the scheduler.
    worker = BareWorker(mesh.channels["scheduler"], caller)
    await worker.hello(1, kinds=[kind], worker_id="w")
    assert (await worker.lease()).task.attempt == 1
    once = pb.Tool(tool_name="once", description="Does it.", source="import time; time.sleep(60)", effect=pb.TOOL_EFFECT_ONCE)
    await mesh.stub.CreateTool(pb.CreateToolRequest(tool=once), metadata=caller, wait_for_ready=True)
    told: dict[str, str] = {}
    for name, point in POINTS:
        mesh.rules.write_text(f"{point}=crash@1")
        execution = asyncio.create_task(mesh.execute("python", {"code": "result = 1"}, task.task_id, point))
        await mesh.die_at(name, point)
        release(mesh)
        told[point] = await execution
    # A run that must not be repeated, in the middle of which its process dies.
    execution = asyncio.create_task(mesh.execute("once", {}, task.task_id, "once"))
    async with asyncio.timeout(20):
        while "RUNNING" not in {outcome for _, outcome, _ in mesh.ledger().values()}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await mesh.processes["tool"].kill()
    release(mesh)
    await mesh.processes["tool"].start()
    told["once"] = await execution
    assert set(told.values()) == {"TOOL_OUTCOME_SUCCEEDED", "TOOL_OUTCOME_UNKNOWN"}
    async with asyncio.timeout(20):
        while mesh.query("tool_engine", "SELECT 1 FROM tool.log_outbox UNION ALL SELECT 1 FROM tool.usage_outbox"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    runs = runs_of(mesh.events(task.task_id))
    ledger = mesh.ledger()
    assert len(ledger) == len(POINTS) + 1
    for execution_id, (run, outcome, refusal) in ledger.items():
        assert refusal == ""
        for earlier in range(1, run):
            assert runs.pop((execution_id, earlier)) == ["called", "TOOL_OUTCOME_UNKNOWN"]
        assert runs.pop((execution_id, run)) == ["called", outcome]
    assert runs == {}
    records = await usages_of(mesh.kafka, mesh.topic, mesh.caller.tenant_id, sum(run for run, _, _ in ledger.values()))
    # Kafka may have a record twice, then to the last byte.
    by_id = defaultdict(set)
    for record in records:
        by_id[dict(record.headers)["ce_id"]].add((record.value, tuple(record.headers)))
    assert {len(same) for same in by_id.values()} == {1}
    assert len(by_id) == sum(run for run, _, _ in ledger.values())


def release(mesh: Mesh) -> None:
    """Lets the leases of runs end, as when time has passed since their process died."""
    mesh.query(
        "tool_engine", "UPDATE tool.executions SET lease_until = clock_timestamp() - interval '1 s' WHERE state = 'running'"
    )


def runs_of(events: list[TaskEvent]) -> dict[tuple[str, int], list[str]]:
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    runs = defaultdict(list)
    for event in events:
        if event.HasField("tool_called"):
            runs[event.tool_called.execution_id, event.tool_called.run].append("called")
        elif event.HasField("tool_returned"):
            outcome = ToolOutcome.Name(event.tool_returned.outcome)
            runs[event.tool_returned.execution_id, event.tool_returned.run].append(outcome)
    return dict(runs)
