"""A user's texts are kept off Kafka, and the user is erased: by REST, by the command line, and with the Python library."""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

import grpc
import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh_client.event_keys import EventKeys, KeyNotGiven

from tests.support.mesh import RunningMesh

pytestmark = pytest.mark.acceptance
TOPICS = ("guildmesh.task-events.v1", "guildmesh.task-state.v1")


async def records_of(mesh: RunningMesh, task_id: str) -> tuple[list[Any], bytes]:
    """The records of a cancelled task on both topics, and every byte of all records that were read until its end."""
    consumer = AIOKafkaConsumer(
        *TOPICS,
        bootstrap_servers=mesh.kafka_bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    found: list[Any] = []
    everything: list[bytes] = []
    async with asyncio.timeout(60), consumer:
        while {record.topic for record in found if b"cancelled" in record.value or b"CANCELLED" in record.value} != set(TOPICS):
            record = await consumer.getone()
            everything += [record.key, record.value or b"", *(value for _, value in record.headers)]
            if record.key.decode() == task_id:
                found.append(record)
    return found, b"\0".join(everything)


def user_of(mesh: RunningMesh, admin: httpx.Client) -> httpx.Client:
    name = f"u{uuid.uuid4().hex[:12]}"
    created = admin.post("/v1/users", json={"username": name, "password": "a long password"})
    assert created.status_code == HTTPStatus.OK, created.text
    answer = httpx.post(f"{mesh.url}/auth/token", json={"username": name, "password": "a long password"}, timeout=30)
    headers = {"authorization": f"Bearer {answer.json()['access_token']}", "x-name": name}
    return httpx.Client(base_url=mesh.url, headers=headers, timeout=60)


async def opened(mesh: RunningMesh, token: str, event: TaskEvent) -> TaskEvent:
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        return await EventKeys(channel, (("authorization", token),)).open(event)


def test_a_user_is_erased_and_nobody_reads_the_user_s_records_any_more(mesh: RunningMesh) -> None:
    marker, queue = f"secret-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex[:8]}"
    mesh.ok("queues", "create", queue, "--event-content", "encrypted")
    with (
        httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {mesh.token()}"}, timeout=60) as admin,
        user_of(mesh, admin) as ada,
        user_of(mesh, admin) as bob,
    ):
        assert admin.get(f"/v1/queues/{queue}").json()["event_content"] == "EVENT_CONTENT_ENCRYPTED"
        created = ada.post("/v1/tasks", json={"description": marker, "kind": "tests.nobody", "queue": queue})
        assert created.status_code == HTTPStatus.OK, created.text
        task_id = created.json()["task_id"]
        assert ada.post(f"/v1/tasks/{task_id}:cancel", json={"cause": marker}).status_code == HTTPStatus.OK
        records, everything = asyncio.run(records_of(mesh, task_id))
        assert marker.encode() not in everything
        first = TaskEvent.FromString(next(record.value for record in records if record.topic == TOPICS[0]))
        url = f"/v1/event-keys/{first.data_key_id}"
        assert ada.get(url).json()["username"] == ada.headers["x-name"]
        refused = bob.get(url)
        assert (refused.status_code, refused.json()["details"][0]["reason"]) == (HTTPStatus.NOT_FOUND, "EVENT_KEY_NOT_FOUND")
        token = admin.headers["authorization"]
        assert asyncio.run(opened(mesh, token, first)).created.description == marker
        assert "erased" in mesh.ok("users", "erase", ada.headers["x-name"], "--yes")
        with pytest.raises(KeyNotGiven, match="was destroyed"):
            asyncio.run(opened(mesh, token, first))
        gone = admin.get(url)
        assert (gone.status_code, gone.json()["details"][0]["reason"]) == (HTTPStatus.NOT_FOUND, "EVENT_KEY_DESTROYED")
        refused = ada.post("/v1/tasks", json={"description": marker, "kind": "tests.nobody"})
        assert (refused.status_code, refused.json()["details"][0]["reason"]) == (HTTPStatus.BAD_REQUEST, "USER_ERASED")
        again = admin.post(f"/v1/users/{ada.headers['x-name']}:erase", json={})
        assert again.json()["keys_destroy_time"]
        nobody = bob.post(f"/v1/users/{bob.headers['x-name']}:erase", json={})
        assert nobody.status_code == HTTPStatus.FORBIDDEN
