"""Tasks that are created together and wait for each other: a directed acyclic graph."""

from __future__ import annotations

import hashlib
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.errors import DomainError
from services.scheduler.domain.dependency import FailurePolicy
from services.scheduler.domain.errors import (
    DependencyCycle,
    DuplicateNodeKey,
    SelfDependency,
    UnknownNodeKey,
)
from services.scheduler.domain.task import NewTask

_MOST_NAMED = 20
"""nodes of a cycle that an error names."""
_RANDOM_BITS = 62


@dataclass(frozen=True, slots=True)
class Edge:
    """A node that another one waits for."""

    key: str
    name: str
    """by which the worker finds its result."""
    policy: FailurePolicy


@dataclass(slots=True)
class NewGraph:
    """A graph to create: its tasks have their ids and know each other."""

    tenant_id: str
    request_id: str
    tasks: Sequence[NewTask]
    """in the order of the nodes that the caller gave."""
    ranks: Sequence[int]
    """the place of each node in an order in which dependencies come first."""
    edges: Mapping[str, Sequence[Edge]]
    """of the nodes, by their keys, in the same order."""

    @property
    def keys(self) -> Sequence[str]:
        """Of the nodes, in their order."""
        return list(self.edges)

    @property
    def first_id(self) -> str:
        """The id of the task with rank 0, of which the others are made."""
        return self.tasks[self.ranks.index(0)].task_id

    def ids_after(self, first_id: str) -> list[str]:
        """The ids of all tasks in their order, when the first is this one: what an earlier call with the same nodes has made."""
        return [id_after(first_id, rank) for rank in self.ranks]

    def payload_hash(self) -> bytes:
        """SHA-256 of all that the caller chose, once the payloads that are contexts are looked up."""
        payload = PayloadHash()
        for task, (key, edges) in zip(self.tasks, self.edges.items(), strict=True):
            payload.add(key, task, edges)
        return payload.digest()


def ranks_of(graph: Mapping[str, Sequence[Edge]]) -> list[int]:
    """The place of each node in an order in which dependencies come first; the same for the same graph.

    Raises:
        SelfDependency: a node waits for itself.
        UnknownNodeKey: a node waits for one that is not there.
        DependencyCycle: nodes wait for each other.
    """
    places = {key: place for place, key in enumerate(graph)}
    dependants: list[list[int]] = [[] for _ in places]
    left = [len(edges) for edges in graph.values()]
    for place, (key, edges) in enumerate(graph.items()):
        for edge in edges:
            if edge.key == key:
                raise SelfDependency(key)
            if edge.key not in places:
                raise UnknownNodeKey(key, edge.key)
            dependants[places[edge.key]].append(place)
    free = deque(place for place, number in enumerate(left) if not number)
    ranks = [-1] * len(places)
    rank = 0
    while free:
        place = free.popleft()
        ranks[place] = rank
        rank += 1
        for dependant in dependants[place]:
            left[dependant] -= 1
            if not left[dependant]:
                free.append(dependant)
    if rank < len(places):
        raise DependencyCycle(_cycle(graph, {key for key, place in places.items() if ranks[place] < 0}))
    return ranks


def check_keys(keys: Sequence[str]) -> None:
    """Raises DuplicateNodeKey when a key comes twice."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise DuplicateNodeKey(key)
        seen.add(key)


def _cycle(graph: Mapping[str, Sequence[Edge]], stuck: set[str]) -> list[str]:
    """One cycle among nodes of which each waits for another of them, each before the one that it waits for."""
    path = [next(key for key in graph if key in stuck)]
    places = {path[0]: 0}
    while True:
        following = next(edge.key for edge in graph[path[-1]] if edge.key in stuck)
        if following in places:
            cycle = [*path[places[following] :], following]
            return cycle if len(cycle) <= _MOST_NAMED else [*cycle[: _MOST_NAMED - 2], "…", cycle[-1]]
        places[following] = len(path)
        path.append(following)


def id_after(first_id: str, rank: int) -> str:
    """The id of the task with this rank: the first one's, counted on, as RFC 9562 does within a millisecond (6.2, method 2).

    So the order of the ids is one in which dependencies come first, in which rows are locked, and one id tells them all.
    """
    number = uuid.UUID(first_id).int
    mask = (1 << _RANDOM_BITS) - 1
    return str(uuid.UUID(int=number & ~mask | (number + rank) & mask))


@dataclass(slots=True)
class PayloadHash:
    """Gathers what a caller has chosen for a graph."""

    _digest: hashlib._Hash = field(default_factory=lambda: hashlib.sha256(b"task graph\0"))

    def add(self, key: str, task: NewTask, edges: Sequence[Edge]) -> None:
        """Adds a node; its task has its payload."""
        parts = [
            key,
            str(task.parent_attempt),
            *(part for edge in edges for part in (edge.key, edge.name, str(int(edge.policy)))),
        ]
        for part in parts:
            encoded = part.encode()
            self._digest.update(len(encoded).to_bytes(4))
            self._digest.update(encoded)
        self._digest.update(len(parts).to_bytes(4))
        self._digest.update(task.payload_hash())

    def digest(self) -> bytes:
        """SHA-256 of all nodes."""
        return self._digest.digest()


def of_node(error: DomainError, key: str) -> DomainError:
    """The error of a node, which now says of which."""
    error.message = f"Node {key!r}: {error.message}"
    error.metadata["node"] = key
    return error
