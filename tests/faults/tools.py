"""Tool services beside a cluster, that run things for its tasks; and what is wrong with what they tell of it in the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg2
from aiokafka import AIOKafkaConsumer, TopicPartition
from google.protobuf.struct_pb2 import Struct
from guildmesh.tool.v1 import tool_service_pb2 as pb
from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_ports
from services.tool.settings import ToolSettings
from tests.faults.calls import UNKNOWN
from tests.faults.client import Client
from tests.faults.cluster import MIGRATING, Cluster, target_of
from tests.faults.evidence import Event
from tests.faults.tables import Tables
from tests.support.service import metadata

PLACES = ("tool.",)
_PROCESSES = 2
_PARTITIONS = 16
_STEPS = 2
# A run that was cut off keeps its lease for longer than a round takes: who asks for it again is told to wait, and gives up.
_PATIENCE = 8.0
_LEDGER = "SELECT execution_id::text, run, state, exit_code, log_refusal FROM tool.executions WHERE tenant_id = %s"
_UNTOLD = """
SELECT (SELECT count(*) FROM tool.log_outbox WHERE tenant_id = %s), (SELECT count(*) FROM tool.usage_outbox WHERE tenant_id = %s)
"""
_NOT_RUN, _UNSURE = "TOOL_OUTCOME_NOT_RUN", "TOOL_OUTCOME_UNKNOWN"


@dataclass
class Tools:
    """Two tool services, asked by one client."""

    cluster: Cluster
    client: Client
    stub: Any
    topic: str
    tables: Tables

    async def run_for(self, tags: Sequence[str]) -> None:
        """Runs some Python for the tasks of `tags`, step by step, until each is answered or known to be cut off."""
        async with asyncio.TaskGroup() as group:
            for tag in tags:
                group.create_task(self._steps(tag))

    async def _steps(self, tag: str) -> None:
        while tag not in self.client.task_ids:  # noqa: ASYNC110 - whoever creates it does not say so
            await asyncio.sleep(0.02)
        task_id = self.client.task_ids[tag]
        await self.client.until_started(task_id)
        arguments = Struct()
        arguments.update({"code": "result = 1"})
        for step in range(_STEPS):
            request = pb.ExecuteToolRequest(tool_name="python", arguments=arguments, task_id=task_id, attempt=1)
            request.step_id = f"step-{step}"
            await self._ask(request)

    async def _ask(self, request: pb.ExecuteToolRequest) -> None:
        by = metadata(Principal("tools", self.client.tenant, frozenset({"user"})))
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                await self.stub.ExecuteTool(request, metadata=by, timeout=_PATIENCE)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in UNKNOWN:
                    self.client.surprised(f"a tool was refused: {error.code().name}: {error.details()}")
                    return
                await asyncio.sleep(0.1)

    async def wrong(self, kept: Sequence[Event], seconds: float) -> list[str]:
        """What is wrong with the logs of tasks that are `kept`, and with what Kafka has, by the ledger, once all is told."""
        runs: dict[str, list[str]] = defaultdict(list)
        for event in kept:
            if event.type in ("tool_called", "tool_returned"):
                runs[event.detail].append(event.value or "called")
        problems, used = [], set()
        ledger = await asyncio.to_thread(self.tables.query, _LEDGER, self.client.tenant)
        for execution, last, state, exit_code, refusal in ledger:
            for run in range(1, last + 1):
                end = {"running": "", "unknown": _UNSURE}.get(state, f"TOOL_OUTCOME_{'FAILED' if exit_code else 'SUCCEEDED'}")
                outcome = end if run == last else _UNSURE
                wanted = ["called", outcome] if outcome else ["called"]
                found = runs.pop(f"{execution}/{run}", [])
                # What comes for an attempt that is over is not in the log, as the ledger says, too.
                if found not in (wanted, ["called", _UNSURE, outcome]) and not refusal:
                    problems.append(f"run {run} of {execution} is in the log as {found}, and in the ledger as {wanted}")
                if outcome:
                    used.add(f"{execution}/{run}")
        problems += [f"run {run} is in the log as {found} alone" for run, found in runs.items() if _NOT_RUN not in found]
        if not ledger:
            problems.append("no tool has run")
        return problems + await self._wrong_on_kafka(used, seconds)

    async def told(self, seconds: float) -> list[str]:
        """Waits until nothing is left to be told; what is left after `seconds`."""
        end, tenant = time.monotonic() + seconds, self.client.tenant
        left: tuple[int, int] = (1, 1)
        while any(left) and time.monotonic() < end:
            with contextlib.suppress(psycopg2.Error):
                [left] = await asyncio.to_thread(self.tables.query, _UNTOLD, tenant, tenant)
            await asyncio.sleep(0.05)
        return [f"{left[0]} events and {left[1]} records of use are left to be told"] if any(left) else []

    async def _wrong_on_kafka(self, wanted: set[str], seconds: float) -> list[str]:
        found: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
        try:
            async with asyncio.timeout(seconds), _reading(self.cluster.servers.kafka, self.topic) as consumer:
                while not wanted <= set(found):
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        for record in records:
                            if record.key == self.client.tenant.encode():
                                found[dict(record.headers)["ce_id"].decode()].add((record.value, record.headers))
        except TimeoutError:
            return [f"Kafka lacks {len(wanted - set(found))} records of use of {len(wanted)}"]
        # A run that was believed dead has one more, of its late end.
        more = {name for name in found if "/".join(name.split("/")[:2]) not in wanted}
        problems = [f"Kafka has records of use that the ledger does not: {sorted(more)[:3]}"] if more else []
        return problems + [f"Kafka has different records of use as {name}" for name, same in found.items() if len(same) > 1]


@asynccontextmanager
async def tools_of(cluster: Cluster, client: Client) -> AsyncIterator[Tools]:
    """Two tool services that tell the cluster's schedulers and Kafka of what they run."""
    await asyncio.to_thread(_migrate, cluster.servers.database_url)
    ports = free_ports(_PROCESSES)
    topic = f"usage-{cluster.events_topic}"
    environments = [_environment(cluster, index, port, topic) for index, port in enumerate(ports)]
    tables = Tables(cluster.servers.database_url, "tool_engine")
    try:
        async with (
            secure_channel(target_of(ports), "tool", cluster.tls / "gateway") as channel,
            cluster.more("tool", "services.tool", environments),
        ):
            yield Tools(cluster, client, pb_grpc.ToolServiceStub(channel), topic, tables)
    finally:
        tables.close()


def _migrate(url: str) -> None:
    with MIGRATING:
        settings = ToolSettings(_env_file=None, database_url=SecretStr(url))
        migrate(settings, package="services.tool.storage.migrations", schema="tool")


def _environment(cluster: Cluster, index: int, port: int, topic: str) -> dict[str, str]:
    own = {
        "GUILDMESH_TLS_DIR": str(cluster.tls / "tool"),
        "GUILDMESH_PORT": str(port),
        "GUILDMESH_SCHEDULER_TARGET": cluster.target,
        "GUILDMESH_SANDBOX": "bubblewrap",
        "GUILDMESH_TOOL_USAGE_TOPIC": topic,
        "GUILDMESH_TOOL_LANE_SECONDS": str(cluster.shape.relay_lease_seconds),
        "GUILDMESH_TOOL_POLL_SECONDS": "0.3",
    }
    return own | cluster.topics() | cluster.common(f"tool-{index}", 400 + index)


@asynccontextmanager
async def _reading(kafka: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of all of a topic, from its beginning."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest", enable_auto_commit=False
    )
    consumer.assign([TopicPartition(topic, partition) for partition in range(_PARTITIONS)])
    async with consumer:
        await consumer.seek_to_beginning()
        yield consumer
