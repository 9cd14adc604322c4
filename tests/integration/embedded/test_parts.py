"""The embedded PostgreSQL, Redis and Kafka: what they are set up for, and that they keep what they were given."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError
from redis import Redis as RedisClient
from redis.exceptions import AuthenticationError

from services.embedded.accounts import Account, can_reach
from services.embedded.errors import MeshError
from services.embedded.parts import postgres as postgres_module
from services.embedded.parts.java import find_java, java_version
from services.embedded.parts.postgres import Postgres
from services.embedded.parts.redis import Redis
from services.embedded.ports import free_port
from services.embedded.running import RunningPart
from tests.support.servers import postgres_part, running_kafka, running_redis, server_folder


@contextlib.contextmanager
def connected(url: str) -> Iterator[psycopg2.extensions.cursor]:
    with contextlib.closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        yield cursor


def test_the_services_role_owns_its_database_and_is_no_superuser(postgres_url: str) -> None:
    with connected(postgres_url) as cursor:
        cursor.execute("SELECT rolsuper, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False, True, False)
        cursor.execute("SELECT pg_get_userbyid(datdba) = current_user FROM pg_database WHERE datname = current_database()")
        assert cursor.fetchone() == (True,)
        cursor.execute("SELECT '[1,2]'::vector <-> '[1,4]'::vector, current_setting('fsync')")
        assert cursor.fetchone() == (2.0, "on")


def test_postgres_refuses_a_wrong_password(postgres_server: RunningPart) -> None:
    assert isinstance(postgres_server.part, Postgres)
    url = postgres_server.part.url
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(url.replace(password, "wrong"))


def test_postgres_keeps_what_was_committed_when_it_is_killed() -> None:
    with server_folder("postgres") as folder:
        part = postgres_part(folder, max_connections=20)
        server = RunningPart(part, folder / "log")
        server.start()
        try:
            with connected(part.url) as cursor:
                cursor.execute("CREATE TABLE kept AS SELECT 1 AS one")
            server.kill()
            server.start()
            with connected(part.url) as cursor:
                cursor.execute("SELECT one FROM kept")
                assert cursor.fetchone() == (1,)
        finally:
            server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL under another account")
def test_root_keeps_its_private_home_private(monkeypatch: pytest.MonkeyPatch) -> None:
    with server_folder("postgres") as folder, server_folder("shared") as shared:
        monkeypatch.setattr(postgres_module, "_SHARED_FOLDER", shared)
        shared.chmod(0o755)
        home = folder / "home"
        home.mkdir(mode=0o700)
        part = postgres_part(home, max_connections=20)
        server = RunningPart(part, folder / "log")
        server.start()
        try:
            part.check()
        finally:
            server.stop()
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert (home / "postgres").resolve().parent == shared
        # And a second time, from what is there.
        server.start()
        server.stop()


def test_an_account_reaches_only_what_every_folder_on_the_way_lets_it(tmp_path: Path) -> None:
    stranger = Account("stranger", 54321, 54321)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not can_reach(stranger, closed / "file")
    assert can_reach(stranger, Path("/usr/bin/env"))


def test_redis_asks_for_a_password_and_keeps_what_must_not_be_lost() -> None:
    with running_redis() as server:
        assert isinstance(server.part, Redis)
        url = server.part.url
        with RedisClient.from_url(url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            client.set("revoked", "1")
        with RedisClient(port=server.part.port) as stranger, pytest.raises(AuthenticationError):
            stranger.get("revoked")
        server.stop()
        server.start()
        with RedisClient.from_url(url) as client:
            assert client.get("revoked") == b"1"


def test_the_cache_forgets_the_least_used_beyond_1024_megabytes() -> None:
    with running_redis(cache=True) as server:
        assert isinstance(server.part, Redis)
        with RedisClient.from_url(server.part.url) as client:
            settings = client.config_get("maxmemory*")
    assert settings["maxmemory"] == str(1024 * 1024 * 1024)
    assert settings["maxmemory-policy"] == "allkeys-lru"


async def test_kafka_creates_no_topic_by_itself(kafka_bootstrap_servers: str) -> None:
    topic = f"nobody-{uuid.uuid4()}"
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers)
    await producer.start()
    try:
        await producer.client.force_metadata_update()
        producer.client.add_topic(topic)
        await producer.client.force_metadata_update()
        assert topic not in producer.client.cluster.topics()
    finally:
        await producer.stop()


async def test_kafka_keeps_its_records_when_it_is_killed() -> None:
    with running_kafka() as server:
        servers = server.part.address()
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        await admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
        await producer.start()
        await producer.send_and_wait("kept", b"one")
        await producer.stop()
        await asyncio.to_thread(server.kill)
        with pytest.raises(KafkaConnectionError):
            await AIOKafkaAdminClient(bootstrap_servers=servers).start()
        await asyncio.to_thread(server.start)
        consumer = AIOKafkaConsumer("kept", bootstrap_servers=servers, auto_offset_reset="earliest")
        await consumer.start()
        try:
            record = await asyncio.wait_for(consumer.getone(), 30)
        finally:
            await consumer.stop()
        assert record.value == b"one"


class Broken(Redis):
    """A Redis with a configuration that it refuses."""

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "redis.conf").write_text("nonsense yes\n")


def test_a_part_that_does_not_start_says_where_to_look() -> None:
    with server_folder("redis") as folder:
        part = Broken(folder / "redis", port=free_port(), password="x")
        with pytest.raises(MeshError, match=rf"redis ended with 1 \(see {folder / 'log'}\)"):
            RunningPart(part, folder / "log").start()


def test_the_newest_java_that_is_new_enough_is_found() -> None:
    assert (java_version(find_java()) or 0) >= 17
