"""What the scheduler refuses to start with, and what it then says."""

from __future__ import annotations

import base64
import os

import pytest
from pydantic import ValidationError

from services.common.key_cipher import KeyCipher
from services.scheduler.domain.event_content import EventContent
from services.scheduler.settings import SchedulerSettings
from services.scheduler.webhooks.settings import WebhookSettings

NAMES = ("KAFKA_EVENT_CONTENT", "GUILDMESH_EVENT_MASTER_KEY", "GUILDMESH_EVENT_MASTER_KEY_BEFORE", "GUILDMESH_PROFILE")
KEY = base64.b64encode(bytes(32)).decode()


def settings(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> SchedulerSettings:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return SchedulerSettings(_env_file=None)


def test_in_development_everything_is_on_kafka_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, {}).contents is EventContent.PLAIN
    assert not settings(monkeypatch, {"KAFKA_EVENT_CONTENT": "", "GUILDMESH_EVENT_MASTER_KEY": ""}).master_keys
    assert settings(monkeypatch, {"KAFKA_EVENT_CONTENT": "omit"}).contents is EventContent.OMIT


def test_the_first_of_two_master_keys_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    other = base64.b64encode(os.urandom(32)).decode()
    values = {"KAFKA_EVENT_CONTENT": "encrypted", "GUILDMESH_EVENT_MASTER_KEY": other, "GUILDMESH_EVENT_MASTER_KEY_BEFORE": KEY}
    both, before = settings(monkeypatch, values), settings(monkeypatch, {"GUILDMESH_EVENT_MASTER_KEY": KEY}).master_keys
    assert both.master_keys.newest_id == KeyCipher(other).master_key_id
    assert before.newest_id is not None
    assert both.master_keys.open(before.newest_id, "name", before.seal("name", b"plain")) == b"plain"


def test_a_webhook_process_has_the_same_master_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = settings(monkeypatch, {"GUILDMESH_EVENT_MASTER_KEY": KEY}).master_keys
    assert WebhookSettings(_env_file=None).master_keys.newest_id == kept.newest_id
    monkeypatch.delenv("GUILDMESH_EVENT_MASTER_KEY")
    assert not WebhookSettings(_env_file=None).master_keys
    monkeypatch.setenv("GUILDMESH_EVENT_MASTER_KEY_BEFORE", KEY)
    with pytest.raises(ValidationError, match="set GUILDMESH_EVENT_MASTER_KEY as well"):
        WebhookSettings(_env_file=None)


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"GUILDMESH_PROFILE": "production"}, "set KAFKA_EVENT_CONTENT: .*plain .*omit .*encrypted"),
        ({"GUILDMESH_PROFILE": "production", "KAFKA_EVENT_CONTENT": "encrypted"}, "set GUILDMESH_EVENT_MASTER_KEY.*openssl"),
        ({"KAFKA_EVENT_CONTENT": "encrypted"}, "set GUILDMESH_EVENT_MASTER_KEY.*openssl"),
        ({"GUILDMESH_EVENT_MASTER_KEY_BEFORE": KEY}, "set GUILDMESH_EVENT_MASTER_KEY"),
        ({"GUILDMESH_EVENT_MASTER_KEY": "short"}, "GUILDMESH_EVENT_MASTER_KEY must be base64 of 32 bytes"),
        (
            {"GUILDMESH_EVENT_MASTER_KEY": KEY, "GUILDMESH_EVENT_MASTER_KEY_BEFORE": "short"},
            "GUILDMESH_EVENT_MASTER_KEY_BEFORE must be base64 of 32 bytes",
        ),
        ({"KAFKA_EVENT_CONTENT": "everything"}, "'plain', 'omit' or 'encrypted'"),
    ],
)
def test_what_is_missing_is_said(values: dict[str, str], advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=advice) as refused:
        settings(monkeypatch, values)
    assert len(refused.value.errors()) == 1
    assert KEY not in str(refused.value)
