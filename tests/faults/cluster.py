"""A cluster of real processes to be broken: PostgreSQL, Kafka, schedulers, relays and workers on loopback, with mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg2
from aiokafka import AIOKafkaConsumer, TopicPartition
from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.common.failpoints import FILE, SEED
from services.common.grpcx.channel import secure_channel
from services.embedded.parts.kafka import Kafka
from services.embedded.parts.postgres import Postgres
from services.embedded.ports import free_ports
from services.embedded.running import RunningPart
from services.scheduler.settings import SchedulerSettings
from services.scheduler.storage.event_log import split
from tests.faults.checker import Event, Evidence, Problem, StateRecord, TaskRow, check
from tests.faults.history import FAIL, INFO, OK, Recorder, digest, read
from tests.faults.members import Member
from tests.faults.worker import KIND, SETTINGS
from tests.support.service import mesh_certificates, metadata

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 16
BATCH = 100
_STATES = {1: "PENDING", 2: "RUNNING", 3: "COMPLETED", 4: "FAILED", 5: "CANCELLED"}
# After these a caller does not know what happened, and asks again.
_UNKNOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
}
_MAX_ATTEMPTS = 20


@dataclass(frozen=True)
class Shape:
    """How large a cluster is, and how quick its times are."""

    schedulers: int = 3
    relays: int = 2
    workers: int = 5
    concurrency: int = 20
    lease_seconds: float = 3.0
    relay_lease_seconds: float = 1.5
    pool: int = 6
    seed: int = 0


@dataclass
class Servers:
    """What the processes stand on."""

    database_url: str
    kafka: str
    postgres_part: RunningPart | None = None
    """given when it may be restarted."""
    kafka_part: RunningPart | None = None


def servers_of(postgres: RunningPart, kafka: RunningPart) -> Servers:
    """Servers that belong to one cluster alone."""
    assert isinstance(postgres.part, Postgres)
    assert isinstance(kafka.part, Kafka)
    return Servers(postgres.part.url, kafka.part.bootstrap_servers, postgres, kafka)


@dataclass
class Cluster:
    """The running processes, and what is done to them."""

    folder: Path
    servers: Servers
    shape: Shape
    tree: Path = ROOT
    """folder whose code runs: a copy of this one when something in it was spoilt on purpose."""
    extra: Mapping[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)
    """what nobody meant to happen, such as a process that ended by itself."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.shape.seed)
        self._fired: list[tuple[str, str]] = []
        self.tls = mesh_certificates(self.folder / "tls")
        self.ports = free_ports(self.shape.schedulers)
        suffix = uuid.uuid4().hex[:8]
        self.events_topic, self.state_topic = f"events-{suffix}", f"state-{suffix}"
        self.target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.reader = KafkaReader(self.servers.kafka, (self.events_topic, self.state_topic))
        for index, port in enumerate(self.ports):
            self._add(f"scheduler-{index}", ["-m", "services.scheduler"], self._scheduler(index, port))
        for index in range(self.shape.relays):
            self._add(f"relay-{index}", ["-m", "services.scheduler.relay"], self._relay(index))
        for index in range(self.shape.workers):
            self._add(f"worker-{index}", ["-m", "tests.faults.worker"], self._worker(index))

    def of(self, role: str) -> list[Member]:
        """The members of a role: scheduler, relay or worker."""
        return [member for name, member in self.members.items() if name.startswith(role)]

    def arm(self, rules: str, *roles: str) -> None:
        """Sets the failpoints of roles (of all when none is named), in the running processes."""
        for name in self.members:
            if not roles or name.startswith(roles):
                file = self._rules(name)
                new = file.with_suffix(".new")
                new.write_text(rules)
                new.replace(file)

    def fired(self) -> list[tuple[str, str]]:
        """Which failpoints acted so far, with their action."""
        for member in self.members.values():
            for line in member.news().splitlines():
                if line.startswith('{"event": "failpoint"') and '"name"' in line:
                    entry = json.loads(line)
                    self._fired.append((entry["name"], entry["action"]))
        return self._fired

    def histories(self) -> list[Path]:
        """The files of all workers and clients."""
        return sorted(self.folder.glob("history-*.jsonl"))

    def told(self) -> str:
        """What to read when something went wrong."""
        return "\n".join(f"--- {name}\n{member.tail(1500)}" for name, member in self.members.items())

    def _add(self, name: str, arguments: Sequence[str], environment: Callable[[int], Mapping[str, str]]) -> None:
        log = self.folder / f"{name}.log"
        self.members[name] = Member(name, arguments, environment, self.tree, log, self.surprises.append)

    def _common(self, name: str, index: int) -> dict[str, str]:
        paths = (self.tree, self.tree / "gen" / "python", self.tree / "sdk" / "python")
        return {
            "PYTHONPATH": ":".join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DATABASE_URL": self.servers.database_url,
            "DB_POOL_SIZE": str(self.shape.pool),
            "DB_MAX_OVERFLOW": "2",
            "GUILDMESH_ADMIN_PORT": "0",
            "GUILDMESH_DRAIN_SECONDS": "2",
            "GUILDMESH_PROFILE": "development",
            "LOG_LEVEL": "WARNING",
            FILE: str(self._rules(name)),
            SEED: f"{self.shape.seed}-{index}",
            **self.extra,
        }

    def _rules(self, name: str) -> Path:
        return self.folder / f"{name}.failpoints"

    def _scheduler(self, index: int, port: int) -> Callable[[int], Mapping[str, str]]:
        lease = self.shape.lease_seconds
        own = {
            "GUILDMESH_PORT": str(port),
            "GUILDMESH_TLS_DIR": str(self.tls / "scheduler"),
            "GUILDMESH_LEASE_SECONDS": str(lease),
            "GUILDMESH_HEARTBEAT_SECONDS": str(lease / 4),
            "GUILDMESH_SWEEP_SECONDS": "0.3",
        }
        return lambda _: own | self._common(f"scheduler-{index}", index)

    def _relay(self, index: int) -> Callable[[int], Mapping[str, str]]:
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": self.servers.kafka,
            "GUILDMESH_TASK_EVENTS_TOPIC": self.events_topic,
            "GUILDMESH_TASK_STATE_TOPIC": self.state_topic,
            "GUILDMESH_RELAY_LEASE_SECONDS": str(self.shape.relay_lease_seconds),
            "GUILDMESH_TLS_DIR": str(self.tls / "scheduler"),
        }
        return lambda _: own | self._common(f"relay-{index}", 100 + index)

    def _worker(self, index: int) -> Callable[[int], Mapping[str, str]]:
        def environment(life: int) -> Mapping[str, str]:
            who = f"worker-{index}-{life}"
            settings = {
                "target": self.target,
                "tls": str(self.tls / "agent"),
                "history": str(self.folder / f"history-{who}.jsonl"),
                "who": who,
                "concurrency": self.shape.concurrency,
                "lease_seconds": self.shape.lease_seconds,
            }
            return {SETTINGS: json.dumps(settings)} | self._common(f"worker-{index}", 200 + index)

        return environment


@asynccontextmanager
async def running_cluster(
    folder: Path, servers: Servers, shape: Shape, *, tree: Path = ROOT, extra: Mapping[str, str] | None = None
) -> AsyncIterator[Cluster]:
    """A cluster over a migrated database; at the end every process must stop in order, whatever it is doing."""
    cluster = Cluster(folder, servers, shape, tree, extra or {})
    settings = SchedulerSettings(_env_file=None, database_url=SecretStr(servers.database_url))
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    for member in cluster.members.values():
        member.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_stop, cluster)
        await _ready(cluster)
        if shape.relays:
            await stack.enter_async_context(cluster.reader)
        yield cluster


async def _ready(cluster: Cluster) -> None:
    async with asyncio.timeout(60), secure_channel(cluster.target, "scheduler", cluster.tls / "gateway") as channel:
        stub: Any = pb_grpc.SchedulerServiceStub(channel)
        while True:
            try:
                await stub.ListQueues(pb.ListQueuesRequest(), metadata=metadata(Principal("ready", "ready")), timeout=2)
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)


async def _stop(cluster: Cluster) -> None:
    cluster.arm("")
    statuses: dict[str, int] = {}
    # As an operator would: who asks first, who answers last.
    for role in ("worker", "relay", "scheduler"):
        members = cluster.of(role)
        for member, status in zip(members, await asyncio.gather(*(member.stop() for member in members)), strict=True):
            statuses[member.name] = status
    for name, status in statuses.items():
        if status:
            cluster.surprises.append(f"{name} did not stop cleanly: {status}\n{cluster.members[name].tail()}")


class Client:
    """Asks for tasks as one tenant, again and again with the same request id until it is answered."""

    def __init__(self, cluster: Cluster, channel: grpc.aio.Channel, tenant: str, recorder: Recorder) -> None:
        self.tenant = tenant
        self.task_ids: dict[str, str] = {}
        """answers so far, by tag."""
        self.watches: list[list[Event]] = []
        self._stub: Any = pb_grpc.SchedulerServiceStub(channel)
        self._metadata = metadata(Principal("client", tenant, frozenset({"user"})))
        self._recorder = recorder
        self._cluster = cluster
        self._watching: set[asyncio.Task[None]] = set()

    async def submit(self, wanted: Mapping[str, str], *, batch: bool = True) -> None:
        """Creates a task for each tag, with what it does; returns when each is answered."""
        left = dict(wanted)
        while left:
            tags = list(left)[:BATCH]
            answered = await (self._batch(tags, left) if batch else self._single(tags, left))
            for tag in answered:
                del left[tag]
            if not answered:
                await asyncio.sleep(0.1 * (0.5 + self._cluster.random.random()))

    async def cancel(self, task_id: str) -> None:
        """Cancels a task, until it is answered."""
        while True:
            number = self._recorder.invoke("cancel", task_id=task_id)
            try:
                await self._stub.CancelTask(pb.CancelTaskRequest(task_id=task_id), metadata=self._metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                if self._unknown(error):
                    self._recorder.outcome(number, INFO, code=error.code().name)
                    await asyncio.sleep(0.1)
                    continue
                # Refused: it has ended, perhaps by a cancellation of ours whose answer was lost.
                self._recorder.outcome(number, FAIL, code=error.code().name)
            else:
                self._recorder.outcome(number, OK)
            return

    def watch(self, task_id: str) -> None:
        """Watches a task to its end, going on after each break from the number it has."""
        seen: list[Event] = []
        self.watches.append(seen)
        task = asyncio.create_task(self._watch(task_id, seen))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def watched(self, seconds: float) -> None:
        """Waits until every watcher has seen the end of its task; those that have not are given up."""
        if self._watching:
            _, late = await asyncio.wait(self._watching, timeout=seconds)
            for task in late:
                task.cancel()
                self._cluster.surprises.append("a watcher did not see the end of its task")
            await asyncio.gather(*late, return_exceptions=True)

    async def _watch(self, task_id: str, seen: list[Event]) -> None:
        while True:
            after = seen[-1].number if seen else 0
            request = pb.WatchTaskRequest(task_id=task_id, after_event_number=after)
            try:
                async for event in self._stub.WatchTask(request, metadata=self._metadata):
                    seen.append(event_of(event))
                return
            except grpc.aio.AioRpcError as error:
                if not self._unknown(error):
                    return
                await asyncio.sleep(0.1)

    async def _batch(self, tags: Sequence[str], wanted: Mapping[str, str]) -> list[str]:
        numbers = [self._recorder.invoke("create", tag=tag, tenant=self.tenant) for tag in tags]
        request = pb.BatchCreateTasksRequest(requests=[_request(tag, wanted[tag]) for tag in tags])
        try:
            response = await self._stub.BatchCreateTasks(request, metadata=self._metadata, timeout=15)
        except grpc.aio.AioRpcError as error:
            self._unknown(error)
            for number in numbers:
                self._recorder.outcome(number, INFO, code=error.code().name)
            return []
        answered = []
        for tag, number, result in zip(tags, numbers, response.results, strict=True):
            if self._answer(tag, number, result.task_id, result.error.code):
                answered.append(tag)
        return answered

    async def _single(self, tags: Sequence[str], wanted: Mapping[str, str]) -> list[str]:
        async def one(tag: str) -> bool:
            number = self._recorder.invoke("create", tag=tag, tenant=self.tenant)
            try:
                task = await self._stub.CreateTask(_request(tag, wanted[tag]), metadata=self._metadata, timeout=15)
            except grpc.aio.AioRpcError as error:
                self._unknown(error)
                return self._answer(tag, number, "", error.code().value[0])
            return self._answer(tag, number, task.task_id, 0)

        done = await asyncio.gather(*(one(tag) for tag in tags))
        return [tag for tag, answered in zip(tags, done, strict=True) if answered]

    def _answer(self, tag: str, number: int, task_id: str, code: int) -> bool:
        if not code:
            self._recorder.outcome(number, OK, task_id=task_id)
            self.task_ids[tag] = task_id
            return True
        unknown = code in {status.value[0] for status in _UNKNOWN}
        self._recorder.outcome(number, INFO if unknown else FAIL, code=code)
        if not unknown:
            self._cluster.surprises.append(f"the create of {tag} was refused with code {code}")
        return not unknown

    def _unknown(self, error: grpc.aio.AioRpcError) -> bool:
        """Whether nobody knows what happened; an INTERNAL is a fault of ours, whatever was broken."""
        if error.code() is grpc.StatusCode.INTERNAL:
            self._cluster.surprises.append(f"INTERNAL: {error.details()}")
            return True
        return error.code() in _UNKNOWN


def _request(tag: str, what: str) -> pb.CreateTaskRequest:
    task = task_pb2.Task(description=tag, kind=KIND, max_attempts=_MAX_ATTEMPTS, labels={"do": what} if what else {})
    return pb.CreateTaskRequest(task=task, request_id=tag)


@asynccontextmanager
async def client_of(cluster: Cluster, tenant: str = "") -> AsyncIterator[Client]:
    """A client with a tenant of its own, as the gateway would pass its calls on."""
    tenant = tenant or f"t-{uuid.uuid4().hex[:12]}"
    recorder = Recorder(cluster.folder / f"history-client-{tenant}-{uuid.uuid4().hex[:6]}.jsonl", f"client-{tenant}")
    async with secure_channel(cluster.target, "scheduler", cluster.tls / "gateway") as channel:
        client = Client(cluster, channel, tenant, recorder)
        try:
            yield client
        finally:
            await client.watched(0)
            recorder.close()


class KafkaReader:
    """Reads both topics from their beginning for as long as the cluster lives, committed records only."""

    def __init__(self, servers: str, topics: tuple[str, str]) -> None:
        self._servers = servers
        self._topics = topics
        self._task: asyncio.Task[None] | None = None
        self.events: dict[str, list[Event]] = defaultdict(list)
        """by tenant."""
        self.states: dict[str, list[StateRecord]] = defaultdict(list)

    async def __aenter__(self) -> KafkaReader:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, tenant: str, expected: set[tuple[str, int]], seconds: float) -> None:
        """Waits until the events are there, or for `seconds`; then a little longer, for what should not be there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if expected <= {(event.task_id, event.number) for event in self.events[tenant]}:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)

    async def _read(self) -> None:
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._servers,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                metadata_max_age_ms=500,
            )
            consumer.assign([TopicPartition(topic, partition) for topic in self._topics for partition in range(SHARDS)])
            try:
                await consumer.start()
                await consumer.seek_to_beginning()
                # A reader that has to begin anew forgets what it had: it is there still.
                self.events.clear()
                self.states.clear()
                while True:
                    for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                        self._take(partition.topic, records)
            except (OSError, TimeoutError, Exception) as error:
                if isinstance(error, asyncio.CancelledError):
                    raise
                await asyncio.sleep(0.2)
            finally:
                with contextlib.suppress(Exception):
                    await consumer.stop()

    def _take(self, topic: str, records: Iterable[Any]) -> None:
        for record in records:
            if topic == self._topics[0]:
                event = TaskEvent.FromString(record.value)
                self.events[event.tenant_id].append(event_of(event))
            else:
                state = TaskSnapshot.FromString(record.value)
                entry = StateRecord(state.task_id, state.state, state.last_event_number, digest(record.value))
                self.states[state.tenant_id].append(entry)


def event_of(event: TaskEvent) -> Event:
    """What the checker knows of an event; the same on every channel."""
    return Event(
        task_id=event.task_id,
        number=event.number,
        type=event.WhichOneof("change") or "",
        attempt=event.attempt,
        digest=digest(event.SerializeToString(deterministic=True)),
        detail=event.step_completed.step_id,
    )


_UNENDED = "SELECT count(*) FROM scheduler.tasks WHERE tenant_id = %s"
_OUTBOX = "SELECT count(*) FROM scheduler.outbox"
_TASKS = """
SELECT task_id::text, state, attempt, next_event_number - 1, spec, log, NULL::bytea AS result, lease_expires IS NOT NULL
FROM scheduler.tasks WHERE tenant_id = %s
UNION ALL
SELECT task_id::text, state, attempt, next_event_number - 1, spec, log, result, false
FROM scheduler.finished_tasks WHERE tenant_id = %s
"""
_MORE_EVENTS = "SELECT value FROM scheduler.task_events WHERE tenant_id = %s ORDER BY task_id, number"


def query(url: str, statement: str, *arguments: object) -> list[Any]:
    """Rows as the scheduler's engine role sees them."""
    connection = psycopg2.connect(url, connect_timeout=5)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
            cursor.execute(statement, arguments)
            return list(cursor.fetchall())
    finally:
        connection.close()


async def quiet(cluster: Cluster, tenant: str, seconds: float, *, published: bool = True) -> bool:
    """Waits until every task of a tenant has ended and the outbox is empty, or for `seconds`; whether it came to that."""
    url = cluster.servers.database_url
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(psycopg2.OperationalError):
            [(unended,)] = await asyncio.to_thread(query, url, _UNENDED, tenant)
            [(waiting,)] = await asyncio.to_thread(query, url, _OUTBOX) if published else [(0,)]
            if not unended and not waiting:
                return True
        await asyncio.sleep(0.15)
    return False


async def evidence_of(cluster: Cluster, client: Client, seconds: float, *, published: bool = True) -> Evidence:
    """What is known of a client's tasks; waits for Kafka for at most `seconds`."""
    url = cluster.servers.database_url
    rows = await asyncio.to_thread(query, url, _TASKS, client.tenant, client.tenant)
    more: dict[str, list[TaskEvent]] = defaultdict(list)
    for (value,) in await asyncio.to_thread(query, url, _MORE_EVENTS, client.tenant):
        event = TaskEvent.FromString(bytes(value))
        more[event.task_id].append(event)
    tasks: dict[str, TaskRow] = {}
    table: list[Event] = []
    for task_id, state, attempt, last, spec, log, result, leased in rows:
        tag = task_pb2.Task.FromString(bytes(spec)).description
        value = "" if result is None else digest(Value.FromString(bytes(result)).SerializeToString(deterministic=True))
        tasks[task_id] = TaskRow(task_id, tag, _STATES[state], attempt, last, value, leased)
        table += [event_of(TaskEvent.FromString(part)) for part in split(bytes(log))]
        table += [event_of(event) for event in more.pop(task_id, ())]
    table += [event_of(event) for events in more.values() for event in events]
    if published:
        await cluster.reader.until(client.tenant, {(event.task_id, event.number) for event in table}, seconds)
    [(outbox,)] = await asyncio.to_thread(query, url, _OUTBOX) if published else [(0,)]
    known = set(tasks)
    history = [
        operation
        for operation in read(cluster.histories())
        if operation.asked.get("tenant") == client.tenant or operation.asked.get("task_id") in known
    ]
    return Evidence(
        history=history,
        tasks=tasks,
        table=table,
        kafka=list(cluster.reader.events[client.tenant]) if published else None,
        state=list(cluster.reader.states[client.tenant]) if published else None,
        watches=[watch for watch in client.watches if watch],
        outbox=outbox,
    )


async def judge(cluster: Cluster, client: Client, seconds: float, *, published: bool = True) -> tuple[Evidence, list[Problem]]:
    """Waits for quiet and checks everything."""
    await quiet(cluster, client.tenant, seconds, published=published)
    await client.watched(min(10, seconds / 4))
    evidence = await evidence_of(cluster, client, min(30, seconds / 4), published=published)
    return evidence, check(evidence)


async def kill_one(cluster: Cluster, *roles: str) -> str:
    """kill -9 of a random member of some roles; gives its name."""
    member = cluster.random.choice([member for role in roles for member in cluster.of(role)])
    member.send(signal.SIGKILL)
    return member.name


async def restart(part: RunningPart | None, *, kill: bool) -> None:
    """Restarts a server of the cluster's own."""
    assert part is not None, "this cluster shares its servers"
    await asyncio.to_thread(part.kill if kill else part.stop)
    await asyncio.to_thread(part.start)
