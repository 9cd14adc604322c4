from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.common.settings import ServiceSettings

WRITTEN = """
AWS_ACCESS_KEY_ID=an-id
AWS_SECRET_ACCESS_KEY=a-secret
AWS_SESSION_TOKEN=
AZURE_STORAGE_ACCOUNT_NAME=account
AZURE_STORAGE_ACCOUNT_KEY=a-key
GOOGLE_APPLICATION_CREDENTIALS=/run/key.json
"""


@pytest.mark.parametrize(
    ("url", "keys"),
    [
        ("s3://bucket", {"access_key_id": "an-id", "secret_access_key": "a-secret"}),
        ("az://container", {"account_name": "account", "account_key": "a-key"}),
        ("gs://bucket", {"application_credentials": "/run/key.json"}),
        ("file:///folder", {}),
        ("", {}),
    ],
)
def test_the_keys_of_the_store_that_is_named_are_read_from_the_file_of_settings(
    url: str, keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in WRITTEN.split():
        monkeypatch.delenv(line.partition("=")[0], raising=False)
    (tmp_path / ".env").write_text(WRITTEN + f"OBJECT_STORE_URL={url}\n")
    read: Any = ServiceSettings
    settings = read(_env_file=tmp_path / ".env")
    assert settings.object_store_keys == keys
    assert "a-secret" not in repr(settings)
