"""What sends events connects to nothing but addresses that it has checked, and to nothing that a receiver names."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.common.certificates import issue_mesh_certificates
from services.scheduler.adapters import webhook_sender
from services.scheduler.adapters.webhook_sender import open_webhook_sender
from services.scheduler.domain.webhook import Outgoing
from services.scheduler.domain.webhook_url import Address, WebhookTargets
from tests.support.receiver import receiving

OUTGOING = Outgoing("t/1", b"{}", {"idempotency-key": "t/1"}, 0.0)
LOOPBACK = WebhookTargets(http=True, networks=(ipaddress.ip_network("127.0.0.0/8"),))
NOWHERE = WebhookTargets(http=True)


def resolved(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """Has names resolve to one answer after the other, the last one again and again; gives who was asked for."""
    asked: list[str] = []

    def addresses(host: str, port: int) -> Sequence[Address]:
        asked.append(host)
        return [ipaddress.ip_address(address) for address in answers[min(len(asked), len(answers)) - 1]]

    monkeypatch.setattr(webhook_sender, "_addresses", addresses)
    return asked


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_no_way_of_writing_it_leads_to_this_machine(host: str) -> None:
    async with receiving() as receiver, open_webhook_sender(NOWHERE, 2.0) as sender:
        delivered = await sender.send(f"http://{host}:{receiver.port}/", [b"s"], OUTGOING)
        assert not delivered.taken
        assert "not public" in delivered.error
        assert receiver.requests == []


async def test_a_name_that_changes_its_address_is_refused_and_asked_for_once_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets = WebhookTargets(http=True, networks=(ipaddress.ip_network("127.0.0.1/32"),))
    async with receiving() as receiver, open_webhook_sender(targets, 2.0) as sender:
        asked = resolved(monkeypatch, ["127.0.0.1"], ["127.0.0.2"], ["8.8.8.8", "169.254.169.254"])
        url = f"http://rebound.example:{receiver.port}/"
        assert (await sender.send(url, [b"s"], OUTGOING)).taken
        assert asked == ["rebound.example"]
        assert receiver.requests[0].headers["host"] == f"rebound.example:{receiver.port}"
        await receiver.stop()
        await receiver.start()
        for address in ("127.0.0.2", "169.254.169.254"):
            delivered = await sender.send(url, [b"s"], OUTGOING)
            if "not public" not in delivered.error:
                # The connection of before was cut only now.
                delivered = await sender.send(url, [b"s"], OUTGOING)
            assert address in delivered.error
        assert len(receiver.requests) == 1


async def test_a_port_that_is_not_allowed_is_not_reached() -> None:
    async with receiving() as receiver:
        targets = WebhookTargets(http=True, networks=LOOPBACK.networks, ports=frozenset({443}))
        async with open_webhook_sender(targets, 2.0) as sender:
            delivered = await sender.send(receiver.url, [b"s"], OUTGOING)
        assert "port" in delivered.error
        assert receiver.requests == []


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as receiver, receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with open_webhook_sender(LOOPBACK, 2.0) as sender:
            assert (await sender.send(receiver.url, [b"s"], OUTGOING)).taken
        assert (len(receiver.requests), proxy.requests) == (1, [])


async def test_a_certificate_must_be_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issue_mesh_certificates(tmp_path, ("gateway",))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "gateway" / "tls.crt", tmp_path / "gateway" / "tls.key")
    async with receiving(tls=server) as receiver:
        async with open_webhook_sender(LOOPBACK, 2.0) as sender:
            unknown = await sender.send(f"https://gateway:{receiver.port}/", [b"s"], OUTGOING)
        assert not unknown.taken
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gateway" / "ca.crt"))
        resolved(monkeypatch, ["127.0.0.1"])
        async with open_webhook_sender(LOOPBACK, 2.0) as sender:
            assert (await sender.send(f"https://gateway:{receiver.port}/", [b"s"], OUTGOING)).taken
            other = await sender.send(f"https://other.example:{receiver.port}/", [b"s"], OUTGOING)
        assert "certificate" in other.error.lower()
        assert len(receiver.requests) == 1


async def test_a_name_that_nobody_knows_says_so() -> None:
    async with open_webhook_sender(NOWHERE, 8.0) as sender:
        delivered = await sender.send("http://nobody.invalid/", [b"s"], OUTGOING)
    assert "nobody.invalid" in delivered.error


async def test_connections_are_used_again() -> None:
    async with receiving() as receiver, open_webhook_sender(LOOPBACK, 2.0) as sender:
        for _ in range(5):
            assert (await sender.send(receiver.url, [b"s"], OUTGOING)).taken
        assert receiver.connections == 1
