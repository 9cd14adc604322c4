"""Kafka's jars, when several meshes of a machine want them at once."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jgo.config
import jgo.maven
import pytest

from services.embedded.parts import kafka_jars

CONTENT = b"a jar " * 1000


class SlowRepository:
    """Stands for Maven Central: what it brings grows in its place, as jgo's downloads do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads = 0

    def project(self, group: str, artifact: str) -> SlowRepository:
        return self

    def at_version(self, version: str) -> SlowRepository:
        return self

    def artifact(self) -> SlowRepository:
        return self

    def resolve(self) -> str:
        jar = self.folder / "some.jar"
        if not jar.exists():
            self.downloads += 1
            with jar.open("wb") as file:
                file.write(CONTENT[:100])
                file.flush()
                # How long the download takes; another that comes meanwhile sees the half, if it may.
                time.sleep(0.3)
                file.write(CONTENT[100:])
        return str(jar)


def test_two_meshes_that_start_at_once_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = SlowRepository(tmp_path)
    monkeypatch.setattr(jgo.maven, "MavenContext", lambda **_: repository)
    settings = SimpleNamespace(repositories={}, repo_cache=str(tmp_path))
    monkeypatch.setattr(jgo.config.GlobalSettings, "load", lambda: settings)
    monkeypatch.setattr(kafka_jars, "locked", lambda: iter([("g:a:1", hashlib.sha256(CONTENT).hexdigest())]))
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(kafka_jars.kafka_jars) for _ in range(2)]
        assert [each.result() for each in both] == [[tmp_path / "some.jar"]] * 2
    assert repository.downloads == 1
