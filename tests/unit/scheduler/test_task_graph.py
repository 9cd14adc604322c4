"""Graphs of tasks: their order, their ids, and what is no graph."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import new_id
from services.scheduler.domain.dependency import Dependency, FailurePolicy
from services.scheduler.domain.errors import (
    DependencyCycle,
    DuplicateNodeKey,
    SelfDependency,
    UnknownNodeKey,
)
from services.scheduler.domain.task import NewTask, State
from services.scheduler.domain.task_graph import Edge, NewGraph, PayloadHash, check_keys, id_after, ranks_of


def graph(edges: dict[str, list[str]]) -> dict[str, list[Edge]]:
    return {key: [Edge(each, each, FailurePolicy.FAIL) for each in needed] for key, needed in edges.items()}


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, list[str]]:
    """Nodes in any order, each of which waits for some of a hidden order before it."""
    keys = [str(number) for number in range(draw(st.integers(1, 12)))]
    edges = {
        key: draw(st.lists(st.sampled_from(keys[:place]), unique=True, max_size=4)) if place else []
        for place, key in enumerate(keys)
    }
    return {key: edges[key] for key in draw(st.permutations(keys))}


@given(acyclic())
def test_a_dependency_has_a_lower_rank_and_a_lower_id(edges: dict[str, list[str]]) -> None:
    ranks = ranks_of(graph(edges))
    assert sorted(ranks) == list(range(len(edges)))
    first = new_id()
    ids = dict(zip(edges, (id_after(first, rank) for rank in ranks), strict=True))
    assert len(set(ids.values())) == len(edges)
    for key, needed in edges.items():
        assert all(ids[each] < ids[key] for each in needed)
    for each in map(uuid.UUID, ids.values()):
        assert (each.version, each.variant, each.int >> 80) == (7, uuid.RFC_4122, uuid.UUID(first).int >> 80)


@given(acyclic(), st.data())
def test_an_edge_back_makes_a_cycle_that_is_named(edges: dict[str, list[str]], data: st.DataObject) -> None:
    with_edges = [key for key, needed in edges.items() if needed]
    if not with_edges:
        return
    key = data.draw(st.sampled_from(with_edges))
    edges[edges[key][0]].append(key)
    with pytest.raises(DependencyCycle) as refused:
        ranks_of(graph(edges))
    cycle = refused.value.metadata["cycle"].split(" -> ")
    assert cycle[0] == cycle[-1]
    assert all(following in edges[each] for each, following in itertools.pairwise(cycle))


def test_a_long_cycle_is_not_told_in_full() -> None:
    edges = {str(number): [str((number + 1) % 10_000)] for number in range(10_000)}
    with pytest.raises(DependencyCycle) as refused:
        ranks_of(graph(edges))
    assert refused.value.metadata["cycle"].startswith("0 -> 1 -> 2 -> ")
    assert refused.value.metadata["cycle"].endswith(" -> 17 -> … -> 0")


def test_what_is_no_graph_is_told() -> None:
    with pytest.raises(SelfDependency):
        ranks_of(graph({"a": ["a"]}))
    with pytest.raises(UnknownNodeKey):
        ranks_of(graph({"a": ["b"]}))
    with pytest.raises(DuplicateNodeKey):
        check_keys(["a", "b", "a"])


def task(payload: bytes = b"payload") -> NewTask:
    return NewTask(new_id(), "acme", "ada", b"", "x", payload=payload)


def digest(*given: tuple[str, NewTask, list[Edge]]) -> bytes:
    payload = PayloadHash()
    for each in given:
        payload.add(*each)
    return payload.digest()


def test_whatever_the_caller_chose_is_in_the_hash_and_ids_are_not() -> None:
    edge = Edge("a", "a", FailurePolicy.FAIL)
    usual = digest(("a", task(), []), ("b", task(), [edge]))
    assert usual == digest(("a", task(), []), ("b", task(), [edge]))
    others = {
        digest(("b", task(), [edge]), ("a", task(), [])),
        digest(("a", task(), []), ("b", task(b"other"), [edge])),
        digest(("a", task(), []), ("b", task(), [])),
        digest(("a", task(), []), ("b", task(), [replace(edge, name="other")])),
        digest(("a", task(), []), ("b", task(), [replace(edge, policy=FailurePolicy.CANCEL)])),
        digest(("a", task(), []), ("c", task(), [edge])),
    }
    assert len(others - {usual}) == 6


def test_one_id_tells_all_ids_of_a_graph() -> None:
    tasks = [task(), task()]
    made = NewGraph("acme", "", tasks, [1, 0], {"late": [], "early": []})
    assert made.keys == ["late", "early"]
    assert made.first_id == tasks[1].task_id
    assert made.ids_after(made.first_id) == [id_after(made.first_id, 1), made.first_id]


@pytest.mark.parametrize("policy", FailurePolicy)
@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED])
def test_a_policy_is_for_what_did_not_complete(policy: FailurePolicy, state: State) -> None:
    assert Dependency("id", "name", policy).allows(state) is (state is State.COMPLETED or policy is FailurePolicy.CONTINUE)
