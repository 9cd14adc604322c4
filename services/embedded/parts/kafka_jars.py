"""Apache Kafka's jars: from Maven Central by `jgo` in pure Python, each checked against the hash in `kafka_jars.lock`.

`python -m services.embedded.parts.kafka_jars` resolves the dependencies anew and rewrites the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from services.embedded.errors import MeshError

KAFKA = "org.apache.kafka:kafka_2.13:4.1.0"
# What joins Kafka's logging to log4j; Kafka's own archive brings it, its Maven coordinates do not.
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
_LOCK = Path(__file__).with_name("kafka_jars.lock")
_ATTEMPTS = 3
_CONNECTIONS = 12


def locked() -> Iterator[tuple[str, str]]:
    """Gives (group:artifact:version, SHA-256 in hex) of each jar."""
    for line in _LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinate, digest = line.split()
            yield coordinate, digest


def kafka_jars() -> list[Path]:
    """Gives the jars in the local Maven repository (M2_REPO or ~/.m2/repository), downloading what is missing.

    Raises:
        MeshError: a jar cannot be downloaded, or is not the one that was locked.
    """
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ImportError:
        raise MeshError(
            "The wheel jgo is not installed: pip install 'guildmesh[embedded]', or set KAFKA_BOOTSTRAP_SERVERS."
        ) from None
    settings = GlobalSettings.load()
    # A mirror in jgo's own configuration is asked before Maven Central.
    repositories = dict(settings.repositories) | {"central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=settings.repo_cache, remote_repos=repositories, timeout=30)
    stop = threading.Event()

    def fetch(entry: tuple[str, str]) -> Path:
        coordinate, digest = entry
        group, artifact, version = coordinate.split(":")
        problem: Exception | None = None
        for _ in range(_ATTEMPTS):
            if stop.is_set():
                break
            try:
                jar = Path(context.project(group, artifact).at_version(version).artifact().resolve())
            except Exception as error:
                problem = error
                continue
            if hashlib.sha256(jar.read_bytes()).hexdigest() == digest:
                return jar
            # Cut short by an earlier interruption, or not what was locked: once more from the source.
            problem = ValueError(f"{jar.name} has another SHA-256 than the locked one")
            jar.unlink()
        stop.set()
        raise MeshError(
            f"Cannot get {coordinate} from Maven Central: check the network, or set KAFKA_BOOTSTRAP_SERVERS ({problem})."
        ) from problem

    with _alone_in(Path(settings.repo_cache)), ThreadPoolExecutor(_CONNECTIONS) as pool:
        return list(pool.map(fetch, locked()))


@contextmanager
def _alone_in(repository: Path) -> Iterator[None]:
    """Waits until no other mesh downloads into the repository: it would see a half of a jar, and take it for a bad one."""
    repository.mkdir(parents=True, exist_ok=True)
    with (repository / ".guildmesh.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _relock() -> None:
    import jgo

    # Apart from each other: together, one's managed versions would change the other's.
    kafka = jgo.resolve(KAFKA)
    binding = [each for each in jgo.resolve(_LOGGING) if each.artifactId == "log4j-slf4j-impl"]
    artifacts = sorted([*kafka, *binding], key=lambda each: (each.groupId, each.artifactId))
    lines = [f"# The jars of {KAFKA} with their SHA-256.", "# Made by: python -m services.embedded.parts.kafka_jars"]
    for each in artifacts:
        digest = hashlib.sha256(each.resolve().read_bytes()).hexdigest()
        lines.append(f"{each.groupId}:{each.artifactId}:{each.version} {digest}")
    _LOCK.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    _relock()
