"""Secrets of webhooks are sealed in their table, sign as before, and what cannot be signed waits without loss."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from guildmesh.scheduler.v1 import webhook_pb2
from guildmesh.scheduler.v1 import webhook_service_pb2 as pb
from guildmesh_client.webhooks import verify
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.common.admin import failed_checks
from services.common.context import Principal
from services.common.grpcx.status import error_info
from services.common.key_cipher import KeyCipher
from services.scheduler.bootstrap import open_service
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.webhooks import registry
from services.scheduler.webhooks.settings import WebhookSettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.event_content.conftest import a_master_key, until
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    own_settings,
    relay_settings,
    relaying,
    wait_ready,
)
from tests.integration.scheduler.webhooks.conftest import Hooks, MakeWebhooks, delivering
from tests.integration.scheduler.webhooks.test_delivery import check, complete, create
from tests.support.receiver import Receiver, receiving
from tests.support.service import running

ACTIVE, FAILING = webhook_pb2.WEBHOOK_STATE_ACTIVE, webhook_pb2.WEBHOOK_STATE_FAILING


@dataclass
class Mesh:
    """Schedulers with this or that master key, over one database with one relay."""

    make: MakeSettings
    relay: RelaySettings
    tls: Path
    url: str
    ada: Principal = field(default_factory=lambda: Principal("ada", unique("acme"), frozenset({"user"})))

    @asynccontextmanager
    async def hooks(self, key: SecretStr | None = None, before: SecretStr | None = None) -> AsyncIterator[Hooks]:
        """A scheduler with these master keys."""
        settings = self.make(
            kafka_bootstrap_servers=self.relay.kafka_bootstrap_servers,
            events_topic=self.relay.events_topic,
            event_master_key=key,
            event_master_key_before=before,
        )
        async with running(open_service, settings, self.tls) as server:
            yield Hooks(Scheduler(server, self.ada))

    def table(self) -> bytes:
        """Every byte of the table's rows."""
        copy = io.BytesIO()
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine; SET search_path = scheduler")
            cursor.copy_expert("COPY (SELECT * FROM webhooks) TO STDOUT (FORMAT binary)", copy)
        return copy.getvalue()

    def sealed_with(self) -> set[str | None]:
        """The ids of the master keys of all rows."""
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine; SET search_path = scheduler")
            cursor.execute("SELECT DISTINCT master_key_id FROM webhooks")
            return {key_id for (key_id,) in cursor.fetchall()}

    async def until_sealed_with(self, key: SecretStr) -> None:
        await until(lambda: self.sealed_with() == {id_of(key)})


def id_of(key: SecretStr) -> str:
    return KeyCipher(key.get_secret_value()).master_key_id


def shown(table: bytes, *secrets: str) -> list[str]:
    """Which of the secrets are in the table, as they are or as they are told."""
    return [secret for secret in secrets if secret.encode() in table or bytes_of(secret) in table]


def bytes_of(secret: str) -> bytes:
    """What signs, and whoever has it can sign."""
    return base64.b64decode(secret.removeprefix("whsec_"))


@pytest.fixture
async def mesh(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    empty_database_url: str,
) -> AsyncIterator[Mesh]:
    relay = relay_settings()
    made = Mesh(own_settings, relay, scheduler_tls, empty_database_url)
    made.make()
    async with relaying(relay) as process:
        await wait_ready(process)
        yield made


async def rotate(hooks: Hooks, webhook_id: str, overlap: timedelta | None = None) -> str:
    request = pb.RotateWebhookSecretRequest(webhook_id=webhook_id)
    if overlap is not None:
        request.overlap.FromTimedelta(overlap)
    return (await hooks.stub.RotateWebhookSecret(request, metadata=hooks.metadata)).secret  # type: ignore[no-any-return]


async def ping(hooks: Hooks, receiver: Receiver, webhook_id: str, *secrets: str) -> None:
    """A ping comes, signed with each of the secrets."""
    request = pb.TestWebhookRequest(webhook_id=webhook_id)
    assert (await hooks.stub.TestWebhook(request, metadata=hooks.metadata)).delivered
    last = receiver.taken[-1]
    for secret in secrets:
        assert verify(secret, last.headers, last.body).startswith("ping/")
    assert len(last.headers["webhook-signature"].split()) == len(secrets)


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error_info(error.value)[0]


async def deliver(hooks: Hooks, settings: WebhookSettings, *expected: tuple[Receiver, str]) -> None:
    """Events of new tasks come to receivers, in order, each signed with the receiver's secret."""
    for receiver, _ in expected:
        receiver.taken.clear()
    async with delivering(settings), hooks.echoing():
        made = await create(hooks, 3)
        for receiver, secret in expected:
            await receiver.until(lambda receiver=receiver: complete(receiver, made))
            check(receiver, made)
            for request in receiver.taken:
                assert verify(secret, request.headers, request.body) == request.id
        for webhook in ("old", "new"):
            await hooks.until(lambda webhook: not webhook.waiting_count, webhook)


async def test_with_a_master_key_no_secret_is_plain_and_each_signs_as_before(mesh: Mesh, webhook_settings: MakeWebhooks) -> None:
    key, next_key = a_master_key(), a_master_key()
    async with receiving() as receiver, receiving() as other:
        async with mesh.hooks() as hooks:
            old = (await hooks.create(receiver, "old")).secret
            assert shown(mesh.table(), old) == [old], "a secret that is plain is not found: this test would find none"
            assert mesh.sealed_with() == {None}
        # Two start at once over the table.
        async with mesh.hooks(key) as hooks, mesh.hooks(key):
            await mesh.until_sealed_with(key)
            await ping(hooks, receiver, "old", old)
            new = (await hooks.create(other, "new")).secret
            await deliver(hooks, webhook_settings(event_master_key=key), (receiver, old), (other, new))
            rotated = await rotate(hooks, "new")
            await ping(hooks, other, "new", rotated, new)
            await deliver(hooks, webhook_settings(event_master_key=key), (receiver, old), (other, rotated), (other, new))
            assert (shown(mesh.table(), old, new, rotated), mesh.sealed_with()) == ([], {id_of(key)})
        # The master key is changed: the first scheduler that has the new one seals anew, and the old one is needed no more.
        async with mesh.hooks(next_key, key):
            await mesh.until_sealed_with(next_key)
        async with mesh.hooks(next_key) as hooks:
            await ping(hooks, other, "new", rotated, new)
            last = await rotate(hooks, "new", timedelta())
            await ping(hooks, other, "new", last)
            await deliver(hooks, webhook_settings(event_master_key=next_key), (receiver, old), (other, last))
            assert shown(mesh.table(), old, new, rotated, last) == []


async def test_what_cannot_be_signed_waits_says_so_and_comes_once_the_key_is_there(
    mesh: Mesh, webhook_settings: MakeWebhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook process has the next master key already; the scheduler seals with the one before it."""
    monkeypatch.setattr(registry, "READY_SECONDS", 0.0)
    key, next_key = a_master_key(), a_master_key()
    async with receiving() as receiver, mesh.hooks(key) as hooks:
        secret = (await hooks.create(receiver)).secret
        with capture_logs() as told:
            async with delivering(webhook_settings(event_master_key=next_key)) as process, hooks.echoing():
                made = await create(hooks, 4)
                sealed = await hooks.until(lambda webhook: webhook.state == FAILING and webhook.waiting_count >= 12)
                assert sealed.last_error == registry.SEALED
                assert "GUILDMESH_EVENT_MASTER_KEY_BEFORE" in sealed.last_error
                down = await failed_checks(process.service.checks)
                assert down.keys() == {"secrets"}
                assert "master key that this process does not have: 1." in down["secrets"]
                # It goes on to say so when somebody takes it back, and sends nothing all the while.
                await hooks.stub.ResumeWebhook(pb.ResumeWebhookRequest(webhook_id="hook"), metadata=hooks.metadata)
                await hooks.until(lambda webhook: webhook.state == FAILING)
                assert receiver.requests == []
                await no_scheduler_without_the_key_signs_or_keeps_the_secret(mesh, hooks)
                async with mesh.hooks(next_key, key):
                    await receiver.until(lambda: complete(receiver, made))
                    check(receiver, made)
                    for request in receiver.requests:
                        assert verify(secret, request.headers, request.body) == request.id
                    after = await hooks.until(lambda webhook: webhook.state == ACTIVE and not webhook.waiting_count)
                    assert after.failed_count == 0
                    assert await failed_checks(process.service.checks) == {}
        said = next(line for line in told if line["event"] == "webhook_secrets_sealed")
        assert (said["log_level"], said["first"]) == ("error", [f"{mesh.ada.tenant_id}/hook"])
        assert any(line["event"] == "webhook_secrets_opened" for line in told)
        assert not any(line["event"] == "delivery_failed" for line in told)


async def no_scheduler_without_the_key_signs_or_keeps_the_secret(mesh: Mesh, hooks: Hooks) -> None:
    """Everything else of the webhook can be had and changed there; the way out, when the key is lost, is a new secret."""
    async with mesh.hooks(a_master_key()) as others, receiving() as receiver:
        request = pb.TestWebhookRequest(webhook_id="hook")
        assert await refused(others.stub.TestWebhook(request, metadata=others.metadata)) == "WEBHOOK_SECRET_SEALED"
        assert await refused(rotate(others, "hook")) == "WEBHOOK_SECRET_SEALED"
        change = webhook_pb2.Webhook(webhook_id="hook", description="still there")
        await others.stub.UpdateWebhook(pb.UpdateWebhookRequest(webhook=change), metadata=others.metadata)
        listed = await others.stub.ListWebhooks(pb.ListWebhooksRequest(), metadata=others.metadata)
        assert [each.description for each in listed.webhooks] == ["still there"]
        await hooks.create(receiver, "lost")
        found = await rotate(others, "lost", timedelta())
        await ping(others, receiver, "lost", found)
        assert await refused(hooks.stub.TestWebhook(pb.TestWebhookRequest(webhook_id="lost"), metadata=hooks.metadata)) == (
            "WEBHOOK_SECRET_SEALED"
        )
        await hooks.stub.DeleteWebhook(pb.DeleteWebhookRequest(webhook_id="lost"), metadata=hooks.metadata)
