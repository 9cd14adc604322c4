"""Named places where a test makes the process fail, before and after whatever has to survive a failure.

    await fail_point("scheduler.create.before_commit", connection.terminate)

Unset, which is always so outside of tests, `fail_point` is a function that does nothing. It is armed by

* `GUILDMESH_FAILPOINTS`: rules, separated by commas or line ends, that hold for the life of the process,
* `GUILDMESH_FAILPOINTS_FILE`: a file of such rules that is read again whenever it changes, so that a test arms a running process,
* `GUILDMESH_FAILPOINTS_SEED`: the seed of every chance (default 0).

A rule is `NAME=ACTION[:ARGUMENT][@WHEN]`. NAME may hold the wild card `*`; the first rule that matches counts. ACTION is one of

* `crash`: the process ends at once with status 137, as after `kill -9`,
* `delay:MS`: nothing happens for that many milliseconds,
* `error`: the error is raised that the real thing raises when it breaks here,
* `cut`: the connection that is in use here is cut; where it is back in its pool already, as after a commit, the error is raised
  that a caller gets whose connection broke before the answer arrived,
* `off`: nothing, whatever the rules after it say.

WHEN is `@N` for the N-th time only (counted by process), `@0.2` for a chance of one in five; every time without it. Each time
that a rule acts, one JSON line on stderr says so: a test can tell whether what it meant to happen did.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import random
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from services.common.errors import DependencyUnavailable

RULES = "GUILDMESH_FAILPOINTS"
FILE = "GUILDMESH_FAILPOINTS_FILE"
SEED = "GUILDMESH_FAILPOINTS_SEED"
ACTIONS = ("crash", "delay", "error", "cut", "off")
CRASH_STATUS = 137


def _database() -> Exception:
    return DependencyUnavailable("database")


def _driver() -> Exception:
    from asyncpg import ConnectionDoesNotExistError

    error: Exception = ConnectionDoesNotExistError("cut by a failpoint")
    return error


def _kafka() -> Exception:
    from aiokafka.errors import KafkaConnectionError

    error: Exception = KafkaConnectionError("cut by a failpoint")
    return error


@dataclass(frozen=True, slots=True)
class Point:
    """What is at a place."""

    meaning: str
    error: Callable[[], Exception]
    """makes what the real thing raises here."""


def _points(error: Callable[[], Exception], meanings: Mapping[str, str]) -> dict[str, Point]:
    return {name: Point(meaning, error) for name, meaning in meanings.items()}


POINTS: Mapping[str, Point] = (
    _points(
        _driver,
        {
            "scheduler.create.before_commit": "new tasks are written, not committed: nobody may ever see them",
            "scheduler.lease.before_commit": "attempts are started, not committed",
            "scheduler.report.before_commit": "results and steps are written, not committed: their workers tell them again",
            "scheduler.append.before_commit": "events of other services are numbered, not committed: they are told again",
            "scheduler.tell_parents.before_commit": "parents have events of their subtasks, not committed",
            "scheduler.heartbeat.before_commit": "leases are renewed, not committed",
            "scheduler.ready.before_commit": "tasks whose moment has come are ready, not committed",
            "scheduler.sweep.before_commit": "lost attempts are given back, not committed",
            "scheduler.signal.before_commit": "a task has a signal, and may be ready, not committed",
            "scheduler.fire.before_commit": "runs of schedules are started, not committed: they are started again",
            "scheduler.replay.before_commit": "failed tasks are replayed, not committed: a repeat replays them",
            "scheduler.dismiss.before_commit": "dead letters are dismissed, not committed",
            "scheduler.delete_queue.before_commit": "a queue is deleted, not committed: who creates tasks waits",
            "scheduler.graph.before_commit": "a graph of tasks is written, not committed: nobody may ever see a part of it",
            "scheduler.cancel.before_commit": "a task and its subtasks are cancelled, not committed",
            "scheduler.add_partition.before_commit": "partitions are made for what will end, not committed: they are made again",
            "scheduler.detach_partition.before_commit": "a partition is taken out, not committed: everybody sees its tasks",
            "scheduler.expire.before_commit": "tombstones are in the outbox, what had its own before is forgotten, not committed",
            "scheduler.expire_rest.before_commit": "the same for tasks outside of all partitions, whose rows are deleted",
            "scheduler.drop_partition.before_commit": "a partition with all its tombstones on Kafka is dropped, not committed",
            "scheduler.decide.before_commit": "attempts that one replica decided on are started, not committed",
            "scheduler.take_over.before_commit": "a replica takes over the decisions, the epoch before still holds",
            "scheduler.listen.before_wake": "a process listens again, and nobody is woken for what it missed",
            "tool.settle.before_commit": "answered events of executions are deleted, not committed: they are sent again",
            "tool.usages.before_commit": "published records of use are deleted, not committed: they are published again",
            "webhooks.route.before_commit": "events are taken out of the topic for webhooks, not committed: they are read again",
            "webhooks.record.before_commit": "what receivers have taken is recorded, not committed: they get it again",
            "relay.lease.before_commit": "the leases of the lanes are renewed, not committed",
            "relay.outbox.before_commit": "the published rows are deleted, not committed: they are deleted again",
        },
    )
    | _points(
        _database,
        {
            "scheduler.create.after_commit": "new tasks are durable, their callers do not know: a repeat gives the same task",
            "scheduler.lease.after_commit": "attempts are started, no worker knows: the sweeper gives them back",
            "scheduler.report.after_commit": "results and steps are durable, not acknowledged: a repeat is acknowledged",
            "scheduler.append.after_commit": "events of other services are durable, not acknowledged: a repeat is",
            "scheduler.tell_parents.after_commit": "parents have events of their subtasks, nobody is woken",
            "scheduler.heartbeat.after_commit": "leases are renewed, their workers do not know",
            "scheduler.ready.after_commit": "tasks whose moment has come are ready, nobody is woken",
            "scheduler.sweep.after_commit": "lost attempts are given back, nobody is woken",
            "scheduler.signal.after_commit": "a task has a signal, the caller is not answered, nobody is woken",
            "scheduler.fire.after_commit": "runs of schedules are started, nobody is woken",
            "scheduler.replay.after_commit": "failed tasks are replayed, the caller is not answered: a repeat replays no other",
            "scheduler.dismiss.after_commit": "dead letters are dismissed, the caller is not answered",
            "scheduler.delete_queue.after_commit": "a queue is deleted, the caller is not answered, nobody here is woken",
            "scheduler.graph.after_commit": "a graph is durable, its caller does not know: a repeat gives the same tasks",
            "scheduler.cancel.after_commit": "a task and its subtasks are cancelled, the caller is not answered, nobody is woken",
            "scheduler.add_partition.after_commit": "partitions are made, the process does not know: it finds them",
            "scheduler.detach_partition.after_commit": "nobody sees a partition's tasks any more, Kafka still has them all",
            "scheduler.expire.after_commit": "tombstones are in the outbox; whoever goes on waits for exactly these",
            "scheduler.expire_rest.after_commit": "the same for tasks outside of all partitions",
            "scheduler.drop_partition.after_commit": "a partition is gone, its tasks are gone from Kafka as well",
            "scheduler.decide.before_start": "it is decided what starts, nothing is written",
            "scheduler.decide.after_commit": "attempts are started, who decides does not know: a new epoch finds out",
            "scheduler.take_over.after_commit": "the epoch has begun, what runs is not read",
            "scheduler.exchange.before_send": "attempts are started, the replica with the workers is about to be told",
            "scheduler.exchange.before_take": "slots are offered, the replica that decides has not taken note of them",
            "scheduler.upload_payload.before_object": "an upload has its row, nothing of it is in the object store",
            "scheduler.upload_payload.after_object": "an upload is in the object store, its row does not say so: it is swept",
            "scheduler.delete_payload.before_object": "nobody may use a payload any more, its object is there: it is swept",
            "scheduler.delete_payload.after_object": "the object of a payload is gone, its row is not: the sweep takes it",
            "scheduler.sweep_payloads.before_objects": "unused payloads are marked, their objects are there",
            "scheduler.sweep_payloads.after_objects": "the objects of unused payloads are gone, their rows are not",
            "scheduler.stream.before_handle": "a message of a worker is read, nothing is done about it",
            "scheduler.stream.after_handle": "a message of a worker waits for its commit",
            "scheduler.stream.before_leases": "attempts are started, the worker is about to be told",
            "scheduler.stream.after_leases": "the worker was told of its attempts",
            "scheduler.stream.before_acks": "reports are durable, the worker is about to be told",
            "scheduler.stream.after_acks": "the worker was told that its reports are durable",
            "scheduler.watch.before_send": "events are read for a watcher, not sent",
            "tool.append.before_send": "events of executions are read, the scheduler has not heard of them",
            "tool.append.after_answer": "the scheduler has numbered events of executions, the outbox sends them again",
            "tool.settle.after_commit": "events of executions have their answers and are deleted, nobody here knows",
            "tool.usages.after_commit": "published records of use are deleted, nobody here knows",
            "webhooks.route.after_commit": "events wait for webhooks, nobody sends them yet",
            "webhooks.send.after_answer": "a receiver has answered, nothing is recorded: what it has taken comes again",
            "webhooks.record.after_commit": "what receivers have taken is recorded, the process does not know",
            "relay.lease.after_commit": "the leases of the lanes are renewed, the lanes do not know",
            "relay.outbox.after_read": "rows are read, nothing is published",
            "relay.outbox.before_delete": "Kafka has committed the rows, they are not deleted: they are published again",
            "relay.outbox.after_commit": "the rows are gone, the relay does not know: it deletes them again",
        },
    )
    | _points(
        _kafka,
        {
            "relay.lane.before_open": "a lane is taken over, the producer before is not fenced",
            "relay.lane.after_open": "a lane is taken over, nothing is published",
            "relay.publish.before_begin": "rows are at hand, no transaction of Kafka is begun",
            "relay.publish.after_send": "records are written to Kafka, not committed: a read_committed reader never sees them",
            "relay.publish.before_commit": "Kafka has acknowledged the records, the transaction is about to be committed",
            "relay.publish.after_commit": "the transaction is committed, the outbox does not know",
            "tool.publish.before_commit": "Kafka has acknowledged records of use, the transaction is about to be committed",
            "tool.publish.after_commit": "records of use are committed, the outbox does not know: they are published again",
        },
    )
)
"""Every place, with its meaning. A test holds that each is used exactly once."""


def peer_socket(peer: str) -> Callable[[], None]:
    """What cuts the connection of a gRPC peer, named as its call names it. gRPC has no way to: its port tells which socket."""

    def cut() -> None:
        port = int(peer.rpartition(":")[2])
        for entry in os.listdir("/proc/self/fd"):
            try:
                with socket.socket(fileno=os.dup(int(entry))) as connection:
                    name = connection.getpeername()
                    if isinstance(name, tuple) and name[1] == port:
                        connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    return cut


def kafka_sockets(producer: Any) -> Callable[[], None]:
    """What cuts the connections of an aiokafka producer, as a broken network would; it has no public way to."""

    def cut() -> None:
        for connection in list(producer.client._conns.values()):
            connection.close()

    return cut


class WrongRule(ValueError):
    """A rule that cannot be read, or that names no place."""


@dataclass(slots=True)
class _Rule:
    pattern: str
    action: str
    milliseconds: float
    chance: float
    turn: int
    """0 for every time."""
    hits: int = 0

    @classmethod
    def parse(cls, text: str) -> _Rule:
        name, equals, rest = text.partition("=")
        rest, _, when = rest.partition("@")
        action, _, argument = rest.partition(":")
        if not equals or action not in ACTIONS:
            raise WrongRule(f"{text!r} is not NAME=ACTION[:ARGUMENT][@WHEN] with one of {', '.join(ACTIONS)}")
        if not any(fnmatch.fnmatchcase(point, name) for point in POINTS):
            raise WrongRule(f"{name!r} names no failpoint")
        try:
            milliseconds = float(argument) if action == "delay" else 0.0
            turn = int(when) if when and "." not in when else 0
            chance = float(when) if "." in when else 1.0
        except ValueError as error:
            raise WrongRule(f"{text!r}: {error}") from None
        if argument and action != "delay":
            raise WrongRule(f"{text!r}: {action} takes no argument")
        return cls(name, action, milliseconds, chance, turn)

    def acts(self, chance: Callable[[], float]) -> bool:
        """Counts a visit; whether something happens this time."""
        self.hits += 1
        if self.turn:
            return self.hits == self.turn
        return self.chance >= 1.0 or chance() < self.chance


class FailPoint(Protocol):
    """What a place calls."""

    def __call__(self, name: str, cut: Callable[[], object] | None = None) -> Awaitable[None]:
        """Fails as the rules say, or does nothing; `cut` cuts the connection that is in use, None when there is none."""


class Failpoints:
    """The rules of this process."""

    def __init__(
        self,
        rules: str = "",
        file: Path | None = None,
        seed: str = "0",
        *,
        end: Callable[[int], object] = os._exit,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        """Arms `rules` and those of `file`; raises WrongRule. A file that cannot be read later on is told and left aside."""
        self._fixed = _parse(rules)
        self._file = file
        self._version: tuple[int, int] | None = None
        self._changing: list[_Rule] = []
        self._chance = random.Random(seed)  # noqa: S311 - not a secret
        self._end = end
        self._tell = tell or _to_stderr

    async def reach(self, name: str, cut: Callable[[], object] | None = None) -> None:
        """Called at the place `name`.

        Raises:
            Exception: what the real thing raises there, when a rule says so.
        """
        point = POINTS[name]
        rule = self._rule_of(name)
        if rule is None or rule.action == "off" or not rule.acts(self._chance.random):
            return
        self._tell(json.dumps({"event": "failpoint", "name": name, "action": rule.action, "hit": rule.hits}))
        if rule.action == "crash":
            self._end(CRASH_STATUS)
        elif rule.action == "delay":
            await asyncio.sleep(rule.milliseconds / 1000)
        elif rule.action == "cut" and cut is not None:
            cut()
        else:
            raise point.error()

    def _rule_of(self, name: str) -> _Rule | None:
        if self._file is not None:
            self._read(self._file)
        for rule in (*self._changing, *self._fixed):
            if fnmatch.fnmatchcase(name, rule.pattern):
                return rule
        return None

    def _read(self, file: Path) -> None:
        try:
            status = file.stat()
            if (status.st_mtime_ns, status.st_ino) == self._version:
                return
            self._version = (status.st_mtime_ns, status.st_ino)
            self._changing = _parse(file.read_text())
        except FileNotFoundError:
            self._changing = []
            self._version = None
        except (OSError, WrongRule) as error:
            self._tell(json.dumps({"event": "failpoint", "error": str(error)}))


def _parse(text: str) -> list[_Rule]:
    parts: Sequence[str] = [part.strip() for line in text.splitlines() for part in line.split(",")]
    return [_Rule.parse(part) for part in parts if part]


def _to_stderr(line: str) -> None:
    # Not the log: a crash right after this leaves nothing in a buffer.
    os.write(sys.stderr.fileno(), line.encode() + b"\n")


async def _nothing(name: str, cut: Callable[[], object] | None = None) -> None:
    """Does nothing, in a process that no test has armed."""


def armed(environment: Mapping[str, str]) -> FailPoint:
    """The function for an environment; raises WrongRule, also when failpoints are to be armed in production."""
    rules, file = environment.get(RULES, ""), environment.get(FILE, "")
    if not rules and not file:
        return _nothing
    if environment.get("GUILDMESH_PROFILE") == "production":
        raise WrongRule(f"{RULES} and {FILE} are for tests; unset them in production")
    return Failpoints(rules, Path(file) if file else None, environment.get(SEED, "0")).reach


fail_point: FailPoint = armed(os.environ)
"""Marks a place; chosen once, when the process starts."""
