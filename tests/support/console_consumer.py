"""Apache Kafka's own console consumer, as someone would run it who knows nothing of this project."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from services.embedded.parts.java import find_java
from services.embedded.parts.kafka_jars import kafka_jars

TOOLS = ("org.apache.kafka", "kafka-tools", "4.1.0")
TOOLS_SHA256 = "1c2836cee57a947d2db461410ac5008ca80facbd19b7ed9d284ca883782ea741"
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Record:
    """One record as the console consumer prints it."""

    key: str
    headers: dict[str, str]


def console_consumer(bootstrap_servers: str, topic: str, *, key: str, count: int, timeout: float = 60) -> list[Record]:
    """The records of `key` on `topic` from the beginning, in order; waits until there are `count` of them.

    Raises:
        TimeoutError: there were fewer after `timeout` seconds.
    """
    command = [
        str(find_java()), "-Xmx128m", "-cp", os.pathsep.join(str(jar) for jar in [*kafka_jars(), tools_jar()]),
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        "--bootstrap-server", bootstrap_servers, "--topic", topic, "--from-beginning",
        "--isolation-level", "read_committed", "--timeout-ms", str(int(timeout * 1000)),
        "--property", "print.headers=true", "--property", "print.key=true", "--property", "print.value=false",
        "--property", f"key.separator={_SEPARATOR}", "--property", "headers.separator=\x1e",
    ]  # fmt: skip
    found: list[Record] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            headers, separator, record_key = line.rstrip("\n").partition(_SEPARATOR)
            if separator and record_key == key:
                found.append(Record(key, dict(item.split(":", 1) for item in headers.split("\x1e"))))
                if len(found) == count:
                    process.kill()
                    return found
        errors = process.stderr.read() if process.stderr else ""
    raise TimeoutError(f"the console consumer saw {len(found)} of {count} records of {key}: {errors[-2000:]}")


def tools_jar() -> Path:
    """The jar with the console tools, which a broker does not need."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    repositories = dict(settings.repositories) | {"central": MAVEN_CENTRAL_URL}
    group, artifact, version = TOOLS
    context = MavenContext(repo_cache=settings.repo_cache, remote_repos=repositories, timeout=30)
    jar = Path(context.project(group, artifact).at_version(version).artifact().resolve())
    assert hashlib.sha256(jar.read_bytes()).hexdigest() == TOOLS_SHA256
    return jar
