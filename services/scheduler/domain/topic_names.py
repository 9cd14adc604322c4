"""What the topics are called: three for all tenants, or three for each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

ALL_TENANTS = ""
_IN_A_TOPIC = re.compile(r"[a-z][a-z0-9-]{0,62}|_[0-9a-f]{40}")
# What identity gives to tenants; all of it may stand in the name of a topic, and a dot or an underscore is not among it.
_SAFE = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The names, as they are configured for all tenants."""

    events: str
    state: str
    dead_letters: str
    per_tenant: bool = False

    def owner(self, tenant_id: str) -> str:
        """Whose topics a tenant's records go to: the tenant's own, or those of ALL_TENANTS."""
        return tenant_id if self.per_tenant else ALL_TENANTS

    def of(self, owner: str) -> TopicNames:
        """The topics of an owner."""
        if not owner:
            return self
        return TopicNames(
            tenant_topic(self.events, owner), tenant_topic(self.state, owner), tenant_topic(self.dead_letters, owner)
        )

    def is_read(self, owner: str, topic: str) -> bool:
        """Whether the events of an owner come on a topic, as it is configured now."""
        return self.per_tenant == (owner != ALL_TENANTS) and topic == self.of(owner).events

    def former_events(self, tenant_id: str) -> str:
        """The topic that a tenant's events are on where `per_tenant` is the other way round."""
        return self.events if self.per_tenant else tenant_topic(self.events, tenant_id)

    def is_public(self, topic: str) -> bool:
        """Whether relays publish to a topic, or might for some tenant."""
        if topic in self.all:
            return True
        # It is a tenant's when the tenant's name that stands in it makes it.
        for name in self.all:
            first, dot, rest = name.partition(".")
            before, after = (f"{first}.", f".{rest}") if dot else (f"{name}.", "")
            tenant = topic.removeprefix(before).removesuffix(after)
            if self.per_tenant and topic == f"{before}{tenant}{after}" and _IN_A_TOPIC.fullmatch(tenant):
                return True
        return False

    @property
    def all(self) -> Collection[str]:
        """Events, state, dead letters."""
        return (self.events, self.state, self.dead_letters)


@lru_cache(maxsize=4096)
def tenant_topic(topic: str, tenant_id: str) -> str:
    """A tenant's own topic beside one for all: the tenant stands behind the first dot, as in `guildmesh.acme.task-events.v1`.

    A tenant whose id may not stand in a topic's name (only one that came from elsewhere than from identity) is named by a hash.
    """
    if not _SAFE.fullmatch(tenant_id):
        tenant_id = f"_{hashlib.sha256(tenant_id.encode()).hexdigest()[:40]}"
    first, dot, rest = topic.partition(".")
    return f"{first}.{tenant_id}.{rest}" if dot else f"{topic}.{tenant_id}"
