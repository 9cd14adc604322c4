"""Apache Kafka 4.1, one node that is broker and controller (KRaft)."""

from __future__ import annotations

import base64
import shutil
import socket
import struct
import uuid
from pathlib import Path

from services.embedded.errors import MeshError, NotReady
from services.embedded.parts.java import find_java, java_version
from services.embedded.parts.kafka_jars import KAFKA, kafka_jars
from services.embedded.parts.part import Launch, Part, base_environment
from services.embedded.ports import LOOPBACK
from services.embedded.processes import run_to_end

_HEAP = "256m"
_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""


class Kafka(Part):
    """One Kafka node without automatic topic creation; topics are made by who owns them, with their final shape."""

    name = "kafka"
    preparation = "gets Apache Kafka from Maven Central (45 MB, once)"
    start_seconds = 180.0
    stop_seconds = 20.0

    def __init__(self, folder: Path, *, port: int, controller_port: int, nice: int = 0) -> None:
        """Describes the node.

        Args:
            folder: where its log segments and its configuration lie.
            port: for clients, on the loopback interface.
            controller_port: for the node itself, on the loopback interface.
            nice: see Launch.
        """
        self._folder = folder
        self.port = port
        self._controller_port = controller_port
        self._nice = nice
        self._jars: list[Path] = []
        self._java: Path | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, in the form of `KAFKA_BOOTSTRAP_SERVERS`."""
        return f"{LOOPBACK}:{self.port}"

    def address(self) -> str:
        """Where it listens."""
        return self.bootstrap_servers

    def prepare(self) -> None:
        """Finds Java, gets the jars, writes the configuration and formats the storage on the first start."""
        self._java = find_java()
        self._jars = kafka_jars()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / "log4j2.properties").write_text(_LOG4J)
        (self._folder / "server.properties").write_text(self._properties())
        if (self._folder / "data" / "meta.properties").exists():
            return
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        # The first byte is fixed, because an id that begins with a dash would be read as an option.
        cluster = base64.urlsafe_b64encode(b"g" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        log = self._folder / "format.log"
        arguments = ("format", "--cluster-id", cluster, "--config", str(self._folder / "server.properties"))
        try:
            run_to_end(self._command("kafka.tools.StorageTool", *arguments, *self._format_options()), log, timeout=60)
        except Exception as error:
            shutil.rmtree(self._folder / "data", ignore_errors=True)
            raise MeshError(f"Kafka could not format its storage (see {log}).") from error

    def _format_options(self) -> tuple[str, ...]:
        """What else is said when the storage is formatted."""
        return ()

    def _properties(self) -> str:
        return "".join(f"{key}={value}\n" for key, value in self._settings().items())

    def _settings(self) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port}",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self._folder / "data",
            # Topics are created explicitly, with their final number of partitions and clean-up policy.
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 4,
            "group.initial.rebalance.delay.ms": 0,
            # A killed broker may register again only when the session of its former life has ended (9 s by default).
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "background.threads": 4,
            # The cleaner's map is 128 MiB unless told otherwise, half of this heap.
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
            "log.segment.bytes": 128 * 1024 * 1024,
        }

    def launch(self) -> Launch:
        """The node in the foreground."""
        return self._command("kafka.Kafka", str(self._folder / "server.properties"))

    def _command(self, main_class: str, *arguments: str) -> Launch:
        assert self._java is not None, "prepare comes first"
        options = [
            f"-Xmx{_HEAP}",
            "-Xms64m",
            # One small heap: the serial collector has the fewest threads and the smallest footprint.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            # Compiled after a third of the usual calls: the first 30,000 tasks cost a quarter less, a start the same.
            "-XX:CompileThresholdScaling=0.3",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}",
            f"-Dkafka.logs.dir={self._folder}",
            f"-Djava.io.tmpdir={self._folder}",
        ]
        version = java_version(self._java) or 0
        if version >= 19:
            # The classes as the last run left them, mapped instead of parsed: about half of the time to start.
            archive = self._folder / f"classes-{main_class.rsplit('.', 1)[1].lower()}-{version}.jsa"
            options += ["-XX:+AutoCreateSharedArchive", f"-XX:SharedArchiveFile={archive}", "-Xlog:disable"]
        if version >= 24:
            # Kafka's libraries load native code and use what these releases warn of.
            options += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
        classpath = ":".join(str(jar) for jar in self._jars)
        return Launch(
            (str(self._java), *options, "-cp", classpath, main_class, *arguments),
            environment=base_environment(),
            folder=self._folder,
            nice=self._nice,
        )

    def check(self) -> None:
        """Asks the broker which API versions it speaks; it answers once it has joined its cluster."""
        # ApiVersions, version 0: length, API key 18, version 0, correlation id 1, no client id.
        request = struct.pack(">ihhih", 10, 18, 0, 1, -1)
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.sendall(request)
                header = connection.recv(10)
        except OSError as error:
            raise NotReady(f"no answer on port {self.port}: {error}") from error
        if len(header) < 10 or struct.unpack(">iih", header)[1:] != (1, 0):
            raise NotReady(f"port {self.port} does not speak Kafka's protocol")


__all__ = ["KAFKA", "Kafka"]
