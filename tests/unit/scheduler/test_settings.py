"""What the scheduler refuses to start with, and what it then says."""

from __future__ import annotations

import base64
import os

import pytest
from pydantic import ValidationError

from services.scheduler.domain.event_content import EventContent
from services.scheduler.settings import SchedulerSettings

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
    assert settings(monkeypatch, {"KAFKA_EVENT_CONTENT": "", "GUILDMESH_EVENT_MASTER_KEY": ""}).event_masters == []
    assert settings(monkeypatch, {"KAFKA_EVENT_CONTENT": "omit"}).contents is EventContent.OMIT


def test_the_first_of_two_master_keys_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    other = base64.b64encode(os.urandom(32)).decode()
    values = {"KAFKA_EVENT_CONTENT": "encrypted", "GUILDMESH_EVENT_MASTER_KEY": other, "GUILDMESH_EVENT_MASTER_KEY_BEFORE": KEY}
    now, before = settings(monkeypatch, values).event_masters
    assert now.master_key_id != before.master_key_id
    assert before.master_key_id == settings(monkeypatch, {"GUILDMESH_EVENT_MASTER_KEY": KEY}).event_masters[0].master_key_id


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
