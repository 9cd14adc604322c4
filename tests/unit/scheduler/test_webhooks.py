"""Where events may go, how they are signed, and when a receiver is tried."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import time
from datetime import UTC, datetime, timedelta

import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh_client.webhooks import InvalidSignature, event_of, verify
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.scheduler.adapters.webhook_event import PING, outgoing_event, ping
from services.scheduler.domain.webhook import Delivered, Webhook, WebhookState, delivery_key, new_secret, secret_text
from services.scheduler.domain.webhook_endpoint import Endpoint, RetryRules
from services.scheduler.domain.webhook_errors import InvalidWebhookUrl
from services.scheduler.domain.webhook_signature import signed_headers
from services.scheduler.domain.webhook_url import WebhookTargets
from services.scheduler.webhooks.settings import WebhookSettings

PRODUCTION = WebhookTargets(ports=frozenset({443, 8443}))
RULES = RetryRules(first_seconds=1.0, longest_seconds=60.0, longest_closed_seconds=30.0, most_attempts=5, most_failures=3)
TAKEN, REFUSED = Delivered(200, "", 0.1), Delivered(500, "HTTP 500", 0.1)
NOW = datetime(2026, 11, 28, tzinfo=UTC)

NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "0.0.0.0", "255.255.255.255"),
    *("169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "168.63.129.16"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:c0a8:101::1", "2001::1", "3fff::1"),
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:831::200e", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_no_address_inside_is_reached(address: str) -> None:
    assert not PRODUCTION.allows(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", [*PUBLIC, "::ffff:8.8.8.8"])
def test_public_addresses_are_reached(address: str) -> None:
    assert PRODUCTION.allows(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_what_is_not_global_is_never_reached(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if PRODUCTION.allows(address):
        assert address.is_global or getattr(address, "ipv4_mapped", None) is not None
        assert not (address.is_private or address.is_loopback or address.is_link_local) or address.is_global


def test_networks_that_an_operator_allows_are_reached_in_every_form_of_their_addresses() -> None:
    targets = WebhookTargets(networks=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")))
    assert targets.allows(ipaddress.ip_address("10.1.2.3"))
    assert targets.allows(ipaddress.ip_address("::ffff:10.1.2.3"))
    assert targets.allows(ipaddress.ip_address("fd12::1"))
    assert not targets.allows(ipaddress.ip_address("10.2.0.1"))


def test_one_address_inside_is_enough_to_refuse_a_name() -> None:
    both = [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("10.0.0.1")]
    assert PRODUCTION.first_forbidden(both) == both[1]
    assert PRODUCTION.first_forbidden(both[:1]) is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.com/", "must begin with https://"),
        ("ftp://example.com/", "must begin with https://"),
        ("//example.com/", "must begin with https://"),
        ("https:///hook", "names no host"),
        ("https://ada:secret@example.com/", "user or password"),
        ("https://example.com@10.0.0.1/", "user or password"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://example.com:99999/", "ort"),
        ("https://example.com:22/", "not one of 443, 8443"),
        ("https://[::1]/", "not a public address"),
        ("https://127.0.0.1/", "not a public address"),
        ("https://10.0.0.1:8443/", "not a public address"),
        ("https://[fe80::1%25eth0]/", "names no host"),
        ("https://[::1/", "."),
        ("https://exa mple.com/", "spaces or letters"),
        ("https://münchen.example/", "spaces or letters"),
        ("https://example.com/\nx", "spaces or letters"),
        ("https://example.com\\@10.0.0.1/", "user or password"),
        ("https://10.0.0.1\\.example.com/", "names no host"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, problem: str) -> None:
    with pytest.raises(InvalidWebhookUrl) as error:
        PRODUCTION.check(url)
    assert problem in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["https://example.com", "https://example.com:8443/a?b=c", "https://8.8.8.8/x", "HTTPS://EXAMPLE.com/"]
)
def test_a_public_url_can_be_used(url: str) -> None:
    PRODUCTION.check(url)


def test_development_reaches_the_machine_itself_and_production_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUILDMESH_WEBHOOK_ALLOWED_NETWORKS", raising=False)
    WebhookSettings(_env_file=None).webhook_targets.check("http://127.0.0.1:5000/hook")
    production = WebhookSettings(_env_file=None, profile="production").webhook_targets
    for url in ("https://127.0.0.1/", "http://example.com/", "https://example.com:5000/"):
        with pytest.raises(InvalidWebhookUrl):
            production.check(url)
    for wrong in ({"webhook_ports": "99999"}, {"webhook_ports": "x"}, {"webhook_allowed_networks": "10.0.0.1/8"}):
        with pytest.raises(ValidationError):
            WebhookSettings(_env_file=None, **wrong)  # type: ignore[arg-type]


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example of the specification's reference libraries.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret])
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"


def test_both_secrets_verify_while_one_is_replaced_and_nothing_else_does() -> None:
    old, new = new_secret(), new_secret()
    body = '{"größe":1}'.encode()
    headers = {name.title(): value for name, value in signed_headers("t/1", int(time.time()), body, [new, old]).items()}
    assert verify(secret_text(new), headers, body) == verify(secret_text(old), headers, body) == "t/1"
    for secret, given_headers, given_body in [
        (new_secret(), headers, body),
        (new, headers, body + b" "),
        (new, headers | {"Webhook-Id": "t/2"}, body),
        (new, headers | {"Webhook-Signature": headers["Webhook-Signature"].replace("v1,", "v2,")}, body),
        (new, headers | {"Webhook-Signature": ""}, body),
        (new, headers | {"Webhook-Timestamp": "x"}, body),
        (new, {}, body),
        (new, signed_headers("t/1", int(time.time()) - 301, body, [new]), body),
        (new, signed_headers("t/1", int(time.time()) + 301, body, [new]), body),
    ]:
        with pytest.raises(InvalidSignature):
            verify(secret_text(secret), given_headers, given_body)
    with pytest.raises(ValueError, match="whsec_"):
        verify("what?", headers, body)


def a_webhook() -> Webhook:
    return Webhook("acme", "hook", "https://example.com", "", "", "ada", new_secret(), uid="x" * 36)


def test_a_secret_before_is_valid_for_its_overlap() -> None:
    webhook = a_webhook()
    first = webhook.secret
    webhook.rotate(timedelta(hours=1), NOW)
    assert webhook.secrets_at(NOW) == [webhook.secret, first]
    assert webhook.secrets_at(NOW + timedelta(hours=1)) == [webhook.secret]
    webhook.rotate(timedelta(), NOW)
    assert webhook.secrets_at(NOW) == [webhook.secret] != [first]


def test_the_state_of_a_webhook() -> None:
    webhook = a_webhook()
    assert webhook.state is WebhookState.ACTIVE
    webhook.failing_since = NOW
    assert webhook.state is WebhookState.FAILING
    webhook.paused = True
    assert webhook.state is WebhookState.PAUSED
    webhook.resume()
    assert webhook.state is WebhookState.ACTIVE
    assert repr(webhook.secret) not in repr(webhook)


def test_an_event_goes_out_as_its_json_with_the_headers_of_cloudevents() -> None:
    event = TaskEvent(
        task_id="01990000-0000-7000-8000-000000000000", number=7, type="guildmesh.task.output.v1", tenant_id="ac me"
    )
    event.event_time.FromDatetime(NOW)
    event.output.text = "größer\u2028"
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    outgoing = outgoing_event(event.SerializeToString(), traceparent)
    assert event_of(outgoing.body) == event
    assert outgoing.time == NOW.timestamp()
    assert outgoing.headers["ce-id"] == outgoing.headers["idempotency-key"] == outgoing.event_id == f"{event.task_id}/7"
    assert outgoing.headers["ce-sequence"] == "0000000007"
    assert outgoing.headers["ce-tenantid"] == "ac%20me"
    assert outgoing.headers["content-type"] == "application/json"
    assert outgoing.headers["traceparent"] == outgoing.headers["ce-traceparent"] == traceparent
    assert "traceparent" not in outgoing_event(event.SerializeToString(), "").headers
    assert ping(a_webhook()).headers["ce-type"] == PING


@pytest.mark.parametrize("text", ["", "x", "x.", "x.-1", "x.1234567890", "x.²"])
def test_what_is_no_delivery_id(text: str) -> None:
    assert delivery_key(text) is None


def test_a_receiver_that_takes_nothing_is_tried_seldom_and_one_at_a_time_until_it_takes_something() -> None:
    endpoint = Endpoint(RULES, 4, closed=False)
    endpoint.in_flight = 3
    assert endpoint.free(0.0) == 1
    assert not endpoint.told(REFUSED, 1.0)
    assert not endpoint.told(REFUSED, 1.0)
    assert endpoint.told(REFUSED, 1.0)
    assert endpoint.closed
    # What was under way says nothing more.
    assert not endpoint.told(REFUSED, 1.1)
    endpoint.in_flight = 0
    pauses = []
    now = 1.0
    for _ in range(8):
        pauses.append(endpoint.pause(now))
        assert endpoint.free(now) == 0
        now += pauses[-1]
        assert endpoint.free(now) == 1
        endpoint.told(REFUSED, now)
    assert all(0.8 * 2**place <= pause <= 1.2 * 2**place for place, pause in enumerate(pauses[:5]))
    assert all(24 <= pause <= 36 for pause in pauses[5:])
    assert endpoint.told(TAKEN, now)
    assert endpoint.free(now) == 4
    assert not endpoint.told(REFUSED, now)


def test_a_receiver_says_itself_when_it_is_to_be_tried() -> None:
    endpoint = Endpoint(RULES, 4, closed=False)
    endpoint.told(Delivered(429, "HTTP 429", 0.1, retry_after=20.0), 100.0)
    # What was under way when it said so, and was taken, changes nothing.
    endpoint.told(TAKEN, 100.1)
    assert not endpoint.closed
    assert endpoint.free(119.0) == 0
    assert endpoint.free(120.0) == 4


def test_an_event_is_tried_more_and_more_seldom() -> None:
    assert 0.8 <= RULES.pause(1) <= 1.2
    assert 12.8 <= RULES.pause(5) <= 19.2
    assert 48 <= RULES.pause(1000) <= 72


def test_a_secret_is_as_long_as_a_digest() -> None:
    text = secret_text(new_secret())
    assert text.startswith("whsec_")
    assert len(base64.b64decode(text.removeprefix("whsec_"))) == hmac.new(b"", b"", hashlib.sha256).digest_size
