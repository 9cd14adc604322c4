"""Topics of all tenants, and topics of each."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.scheduler.domain.topic_names import ALL_TENANTS, TopicNames, tenant_topic
from services.scheduler.topic_settings import TopicSettings

NAMES = TopicNames("guildmesh.task-events.v1", "guildmesh.task-state.v1", "guildmesh.dead-letters.v1")
OWN = TopicNames(*NAMES.all, per_tenant=True)


def test_the_topics_of_all_are_named_as_they_are_set() -> None:
    assert NAMES.of(NAMES.owner("acme")) is NAMES
    assert NAMES.owner("acme") == ALL_TENANTS


def test_a_tenant_stands_behind_the_first_dot() -> None:
    assert list(OWN.of(OWN.owner("acme")).all) == [
        "guildmesh.acme.task-events.v1",
        "guildmesh.acme.task-state.v1",
        "guildmesh.acme.dead-letters.v1",
    ]
    assert tenant_topic("events", "acme") == "events.acme"


@given(st.text(), st.text())
def test_each_tenant_has_a_topic_that_kafka_takes(one: str, two: str) -> None:
    topic = tenant_topic(NAMES.events, one)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic)
    assert topic.count(".") == 3
    assert (topic == tenant_topic(NAMES.events, two)) is (one == two)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"events_topic": "no spaces"}, "letters, digits"),
        ({"state_topic": "x" * 181}, "at most 180"),
        ({"dead_letters_topic": "guildmesh.task-state.v1"}, "three different names"),
    ],
)
def test_names_that_kafka_would_not_take_are_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TopicSettings(_env_file=None, **values)


@given(st.text())
def test_what_relays_may_publish_to_is_known(tenant: str) -> None:
    assert OWN.is_public(OWN.of(tenant).state if tenant else OWN.state)
    assert not NAMES.is_public(tenant_topic(NAMES.events, tenant))
    assert not OWN.is_public(f"{OWN.of('acme').events}.replay-20261128T090000Z")
    assert not OWN.is_public("guildmesh.a.b.task-events.v1")


@given(st.text(min_size=1))
def test_whose_events_come_on_which_topic_is_known(tenant: str) -> None:
    own = tenant_topic(NAMES.events, tenant)
    assert NAMES.is_read(ALL_TENANTS, NAMES.events)
    assert OWN.is_read(tenant, own)
    assert not NAMES.is_read(tenant, own)
    assert not OWN.is_read(ALL_TENANTS, NAMES.events)
    assert not NAMES.is_read(ALL_TENANTS, "guildmesh.task-events.v0")
    assert (NAMES.former_events(tenant), OWN.former_events(tenant)) == (own, NAMES.events)
