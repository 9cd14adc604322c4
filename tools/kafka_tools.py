"""The jar with Kafka's own command line tools, which the mesh itself does not need."""

from __future__ import annotations

import hashlib
from pathlib import Path

GROUP, ARTIFACT, VERSION = "org.apache.kafka", "kafka-tools", "4.1.0"
SHA256 = "1c2836cee57a947d2db461410ac5008ca80facbd19b7ed9d284ca883782ea741"


def kafka_tools_jar() -> Path:
    """The jar in the local Maven repository, downloaded if it is missing; raises ValueError when its hash is not SHA256."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    repositories = dict(settings.repositories) | {"central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=settings.repo_cache, remote_repos=repositories, timeout=30)
    jar = Path(context.project(GROUP, ARTIFACT).at_version(VERSION).artifact().resolve())
    if hashlib.sha256(jar.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{jar.name} has another SHA-256 than the locked one")
    return jar
