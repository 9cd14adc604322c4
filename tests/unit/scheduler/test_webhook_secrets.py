"""Sealed secrets of webhooks open where they were sealed, with the key that sealed them, and nowhere else."""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.common.key_cipher import KeyCipher
from services.common.master_keys import MasterKeys
from services.scheduler.domain.webhook import Webhook, new_secret
from services.scheduler.domain.webhook_errors import WebhookSecretSealed
from services.scheduler.storage.webhook_secrets import SECRET_COLUMNS, WebhookSecrets

UID, OTHER_UID = "01990000-0000-7000-8000-000000000001", "01990000-0000-7000-8000-000000000002"
NOW = datetime(2026, 11, 28, tzinfo=UTC)


def a_cipher() -> KeyCipher:
    return KeyCipher(base64.b64encode(os.urandom(32)).decode())


def a_row(secrets: WebhookSecrets, *columns: bytes | None, tenant_id: str = "acme", uid: str = UID) -> dict[str, Any]:
    secret, previous = columns
    assert secret is not None
    kept = secrets.seal(tenant_id, uid, secret, previous)
    return {"tenant_id": tenant_id, "uid": uid} | dict(zip(SECRET_COLUMNS, kept, strict=True))


def test_without_a_master_key_secrets_are_kept_as_they_are() -> None:
    secrets, secret, previous = WebhookSecrets(MasterKeys()), new_secret(), new_secret()
    row = a_row(secrets, secret, previous)
    assert (row["secret"], row["previous_secret"], row["master_key_id"]) == (secret, previous, None)
    assert secrets.open(row) == (secret, previous)
    # What was plain before there was a key is read until it is sealed.
    assert WebhookSecrets(MasterKeys([a_cipher()])).open(row) == (secret, previous)


def test_a_sealed_secret_shows_nothing_and_opens_with_the_key_that_sealed_it() -> None:
    old, new = a_cipher(), a_cipher()
    secret, previous = new_secret(), new_secret()
    row = a_row(WebhookSecrets(MasterKeys([old])), secret, previous)
    assert not any(part in row[name] for part in (secret, previous) for name in ("secret", "previous_secret"))
    assert WebhookSecrets(MasterKeys([new, old])).open(row) == (secret, previous)
    for others in (MasterKeys(), MasterKeys([new])):
        assert WebhookSecrets(others).open(row) == (None, None)
    assert WebhookSecrets(MasterKeys([old])).open(a_row(WebhookSecrets(MasterKeys([old])), secret, None)) == (secret, None)


def test_a_row_or_a_column_that_is_moved_does_not_open() -> None:
    secrets = WebhookSecrets(MasterKeys([a_cipher()]))
    secret, previous = new_secret(), new_secret()
    row = a_row(secrets, secret, previous)
    assert secrets.open(row) == (secret, previous)
    for moved in (
        {"tenant_id": "globex"},
        {"uid": OTHER_UID},
        {"secret": row["previous_secret"]},
        {"previous_secret": row["secret"]},
        {"secret": row["secret"][:-1] + bytes([row["secret"][-1] ^ 1])},
        {"master_key_id": a_cipher().master_key_id},
    ):
        assert secrets.open(row | moved) == (None, None), moved
    # A plain one in a row that says it is sealed is no secret, whoever put it there.
    assert secrets.open(row | {"secret": secret}) == (None, None)


def test_what_is_sealed_signs_nothing_and_is_replaced_only_with_no_overlap() -> None:
    webhook = Webhook("acme", "hook", "https://example.com", "", "", "ada", None, uid=UID)
    assert webhook.sealed
    with pytest.raises(WebhookSecretSealed, match="GUILDMESH_EVENT_MASTER_KEY_BEFORE"):
        webhook.secrets_at(NOW)
    with pytest.raises(WebhookSecretSealed, match="overlap 0s"):
        webhook.rotate(timedelta(hours=1), NOW)
    webhook.rotate(timedelta(), NOW)
    assert not webhook.sealed
    assert webhook.secrets_at(NOW) == [webhook.secret]
