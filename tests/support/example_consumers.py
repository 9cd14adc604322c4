"""Builds the consumers of examples/consumers in each language."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from services.embedded.parts.java import find_java
from services.embedded.parts.kafka_jars import kafka_jars
from tests.support.example_workers import run_build
from tests.support.requirements import need_program
from tools.kafka_tools import kafka_tools_jar

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "consumers"


def _python(folder: Path) -> list[str]:
    return [sys.executable, str(EXAMPLES / "python" / "consume.py")]


def _build_go(folder: Path) -> list[str]:
    program = folder / "consumer"
    run_build([need_program("go"), "build", "-o", str(program), "."], EXAMPLES / "go", GOFLAGS="-mod=readonly")
    return [str(program)]


def _build_java(folder: Path) -> list[str]:
    need_program("javac")
    maven, source = need_program("mvn"), EXAMPLES / "java"
    contracts = [ROOT / "proto" / "guildmesh" / name for name in ("events/v1/task_event.proto", "common/v1/kafka_topic.proto")]
    digest = hashlib.sha256()
    for file in (source / "pom.xml", *sorted((source / "src").rglob("*.java")), *contracts):
        digest.update(file.read_bytes())
    # It is built where its source lies, and only when that has changed: Maven takes seconds to see that nothing has.
    mark = source / "target" / ".built-from"
    with (source / "pom.xml").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != digest.hexdigest():
            # Half of the time of a short build goes into compiling Maven itself.
            quick = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
            run_build([maven, "--batch-mode", "--quiet", "compile"], source, MAVEN_OPTS=quick)
            mark.write_text(digest.hexdigest())
    path = f"{source / 'target' / 'classes'}{os.pathsep}{source / 'target' / 'lib' / '*'}"
    return [need_program("java"), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", path, "dev.guildmesh.examples.Consume"]


def _console(folder: Path) -> list[str]:
    # What Apache Kafka's archive has as bin/kafka-console-consumer.sh.
    program = folder / "kafka-console-consumer"
    jars = os.pathsep.join(str(jar) for jar in [*kafka_jars(), kafka_tools_jar()])
    java = shlex.join([str(find_java()), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", jars])
    program.write_text(f'#!/bin/sh\nexec {java} org.apache.kafka.tools.consumer.ConsoleConsumer "$@"\n')
    program.chmod(0o755)
    return ["env", f"KAFKA_CONSOLE_CONSUMER={program}", str(EXAMPLES / "console" / "consume.sh")]


BUILDS: dict[str, Callable[[Path], list[str]]] = {
    "python": _python,
    "go": _build_go,
    "java": _build_java,
    "console": _console,
}
"""Builds the consumer of a language in a folder; gives the command that runs it."""
