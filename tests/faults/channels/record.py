"""What a reader of events has kept: a line a event in a file, in the order in which it saw them, written before it goes on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guildmesh.events.v1.task_event_pb2 import TaskEvent


def digest(event: TaskEvent) -> str:
    """What an event says, as a hash that does not depend on who wrote its bytes."""
    return hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest()


@dataclass(frozen=True)
class Line:
    """An event that was seen."""

    task_id: str
    number: int
    digest: str
    place: str
    """where to go on behind it, as the channel says it; empty where the other side remembers."""


class Notebook:
    """The file of one reader. A line that a kill cut short is not there."""

    def __init__(self, path: Path) -> None:
        """Opens it behind what was written before."""
        self._path = path
        kept = b"".join(line for line in _lines(path))
        path.write_bytes(kept)
        self._file = path.open("ab")

    def write(self, events: Sequence[tuple[TaskEvent, str]]) -> None:
        """Adds events, each with its place; after that a kill of this process loses none of them."""
        lines = [f"{event.task_id} {event.number} {digest(event)} {place}\n" for event, place in events]
        self._file.write("".join(lines).encode())
        self._file.flush()

    @property
    def place(self) -> str:
        """Where to go on."""
        *_, last = [Line("", 0, "", ""), *read(self._path)]
        return last.place


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        yield from (line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))


def read(path: Path) -> Iterator[Line]:
    """The lines of a notebook."""
    for line in _lines(path):
        task_id, number, told, place = line.decode().rstrip("\n").split(" ")
        yield Line(task_id, int(number), told, place)


@dataclass
class Seen:
    """What a reader saw of each task."""

    digests: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """of each task: the digest of event 1, 2, 3 and so on."""
    problems: list[str] = field(default_factory=list)
    repeats: int = 0


def seen_in(path: Path, channel: str) -> Seen:
    """Reads a notebook as a program would that drops what it has had already: what is left must come in order, without a gap."""
    seen = Seen()
    for line in read(path):
        known = seen.digests[line.task_id]
        if line.number <= len(known):
            seen.repeats += 1
            if known[line.number - 1] != line.digest:
                seen.problems.append(f"{channel}: event {line.number} of {line.task_id} came again and said something else")
        elif line.number == len(known) + 1:
            known.append(line.digest)
        else:
            seen.problems.append(f"{channel}: event {line.number} of {line.task_id} came after {len(known)}")
    return seen


def compare(channel: str, seen: Seen, table: Mapping[str, Sequence[str]]) -> list[str]:
    """What a reader missed or saw otherwise than the tables have it, beside what was wrong with its order."""
    problems = list(seen.problems)
    for task_id, wanted in table.items():
        found = seen.digests.get(task_id, [])
        if len(found) != len(wanted):
            problems.append(f"{channel}: {len(found)} of the {len(wanted)} events of {task_id}")
        elif found != list(wanted):
            number = next(place for place, (one, other) in enumerate(zip(found, wanted, strict=True), 1) if one != other)
            problems.append(f"{channel}: event {number} of {task_id} says something else than the table")
    return problems
