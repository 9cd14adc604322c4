"""A cluster of real processes to be broken: PostgreSQL, Kafka, schedulers, relays and workers on loopback, with mutual TLS."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.common.failpoints import FILE, SEED
from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_ports
from services.scheduler.settings import SchedulerSettings
from tests.faults.evidence import QueueLimits
from tests.faults.limited import make_queues
from tests.faults.members import Member, Spawner
from tests.faults.reader import KafkaReader
from tests.faults.servers import Servers
from tests.faults.tables import Tables
from tests.faults.worker import SETTINGS
from tests.support.service import mesh_certificates, metadata

ROOT = Path(__file__).resolve().parents[2]
# Long, for a machine that does much else.
_START_SECONDS = 180
MIGRATING = threading.Lock()
"""held by whoever migrates: Alembic keeps what it works on in a global of its own."""
# What a program's main module imports.
_IMPORTS = {
    "services.scheduler": "services.scheduler.__main__",
    "services.scheduler.relay": "services.scheduler.relay.__main__",
    "services.scheduler.webhooks": "services.scheduler.webhooks.__main__",
    "services.tool": "services.tool.__main__",
    "tests.faults.worker": "tests.faults.worker",
}


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
    spawned: bool = False
    """whether a process that ends begins again with its program imported: for runs that are about what it does then."""
    limited: float = 0.0
    """share of the tasks that are in queues with limits."""


def target_of(ports: Sequence[int]) -> str:
    """What a channel to the schedulers on some ports is opened to."""
    return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)


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
    limits: Mapping[str, QueueLimits] = field(default_factory=dict)
    """of its queues that have some."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.shape.seed)
        self._fired: list[tuple[str, str]] = []
        self.objects = self.folder / "objects"
        self.tls = mesh_certificates(self.folder / "tls")
        self.ports = free_ports(self.shape.schedulers)
        suffix = uuid.uuid4().hex[:8]
        self.events_topic, self.state_topic, self.dead_letters_topic = (
            f"{name}-{suffix}" for name in ("events", "state", "dead")
        )
        self.target = target_of(self.ports)
        self.tables = Tables(self.servers.database_url)
        self.reader = KafkaReader(self.servers.kafka, (self.events_topic, self.state_topic))
        for index, port in enumerate(self.ports):
            self._add(f"scheduler-{index}", "services.scheduler", self._scheduler(index, port))
        for index in range(self.shape.relays):
            self._add(f"relay-{index}", "services.scheduler.relay", self._relay(index))
        for index in range(self.shape.workers):
            self._add(f"worker-{index}", "tests.faults.worker", self._worker(index))

    def of(self, role: str) -> list[Member]:
        """The members of a role: scheduler, relay, worker, or one of `more`."""
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

    def deaths(self) -> int:
        """How often a process of it ended before its time."""
        return sum(max(member.lives - 1, 0) for member in self.members.values())

    @asynccontextmanager
    async def more(self, role: str, module: str, environments: Sequence[Mapping[str, str]]) -> AsyncIterator[None]:
        """Further processes of another role, for a while: one for each environment; they must stop in order."""
        for index, environment in enumerate(environments):
            self._add(name := f"{role}-{index}", module, _same(environment))
            self.members[name].start()
        try:
            yield
        finally:
            self.arm("", role)
            await self.stop(role)
            self.fired()
            for member in self.of(role):
                del self.members[member.name]

    async def stop(self, role: str) -> None:
        """Stops the members of a role, each of which must end in order."""
        members = self.of(role)
        for member, status in zip(members, await asyncio.gather(*(member.stop() for member in members)), strict=True):
            if status:
                self.surprises.append(f"{member.name} did not stop cleanly: {status}\n{member.tail()}")

    def histories(self) -> list[Path]:
        """The files of all workers and clients."""
        return sorted(self.folder.glob("history-*.jsonl"))

    def told(self) -> str:
        """What to read when something went wrong."""
        return "\n".join(f"--- {name}\n{member.tail(1500)}" for name, member in self.members.items())

    def _add(self, name: str, module: str, environment: Callable[[int], Mapping[str, str]]) -> None:
        log = self.folder / f"{name}.log"
        spawner = Spawner(module, _IMPORTS[module]) if self.shape.spawned else None
        self.members[name] = Member(name, module, environment, self.tree, log, self.surprises.append, spawner)

    def common(self, name: str, index: int) -> dict[str, str]:
        """The settings that every process has; `index` makes its chances others."""
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
            "GUILDMESH_RETENTION_SECONDS": "0.3",
            "GUILDMESH_SCHEDULE_POLL_SECONDS": "0.2",
            "GUILDMESH_PAYLOAD_UNUSED_SECONDS": "0.4",
            "GUILDMESH_PAYLOAD_UPLOAD_SECONDS": "2",
            "GUILDMESH_PAYLOAD_SWEEP_SECONDS": "0.2",
            "OBJECT_STORE_URL": self.objects.as_uri(),
        }
        return lambda _: own | self.common(f"scheduler-{index}", index)

    def topics(self) -> dict[str, str]:
        """Where Kafka is, and what its topics are called."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.servers.kafka,
            "GUILDMESH_TASK_EVENTS_TOPIC": self.events_topic,
            "GUILDMESH_TASK_STATE_TOPIC": self.state_topic,
            "GUILDMESH_DEAD_LETTERS_TOPIC": self.dead_letters_topic,
        }

    def _relay(self, index: int) -> Callable[[int], Mapping[str, str]]:
        own = self.topics() | {
            "GUILDMESH_RELAY_LEASE_SECONDS": str(self.shape.relay_lease_seconds),
            "GUILDMESH_TLS_DIR": str(self.tls / "scheduler"),
        }
        return lambda _: own | self.common(f"relay-{index}", 100 + index)

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
            return {SETTINGS: json.dumps(settings)} | self.common(f"worker-{index}", 200 + index)

        return environment


def _same(environment: Mapping[str, str]) -> Callable[[int], Mapping[str, str]]:
    return lambda _: environment


@asynccontextmanager
async def running_cluster(
    folder: Path, servers: Servers, shape: Shape, *, tree: Path = ROOT, extra: Mapping[str, str] | None = None
) -> AsyncIterator[Cluster]:
    """A cluster over a migrated database; at the end every process must stop in order, whatever it is doing."""
    cluster = Cluster(folder, servers, shape, tree, extra or {})
    await asyncio.to_thread(_migrate, servers.database_url)
    for member in cluster.members.values():
        member.start()
    async with AsyncExitStack() as stack:
        stack.callback(cluster.tables.close)
        stack.push_async_callback(_stop, cluster)
        await _ready(cluster)
        if shape.limited:
            cluster.limits = await make_queues(servers.database_url, cluster.tables.query)
        if shape.relays:
            await stack.enter_async_context(cluster.reader)
        yield cluster


def _migrate(url: str) -> None:
    settings = SchedulerSettings(_env_file=None, database_url=SecretStr(url))
    with MIGRATING:
        migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")


async def _ready(cluster: Cluster) -> None:
    async with asyncio.timeout(_START_SECONDS), secure_channel(cluster.target, "scheduler", cluster.tls / "gateway") as channel:
        stub: Any = pb_grpc.SchedulerServiceStub(channel)
        while True:
            try:
                await stub.ListQueues(pb.ListQueuesRequest(), metadata=metadata(Principal("ready", "ready")), timeout=2)
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)


async def _stop(cluster: Cluster) -> None:
    cluster.arm("")
    # As an operator would: who asks first, who answers last.
    for role in ("worker", "relay", "scheduler"):
        await cluster.stop(role)


async def kill_one(cluster: Cluster, *roles: str) -> str:
    """kill -9 of a random member of some roles; gives its name."""
    member = cluster.random.choice([member for role in roles for member in cluster.of(role)])
    member.send(signal.SIGKILL)
    return member.name
