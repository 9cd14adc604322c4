"""Access control lists of Kafka: which ones a reader and a relay need, how they are written down, and how they are set."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest

from services.scheduler.domain.topic_names import TopicNames

_ANY_HOST = "*"
_ALLOW = 3
_LITERAL, _PREFIXED = 3, 4


class Resource(IntEnum):
    """What a rule is about; the numbers are those of Kafka's protocol."""

    TOPIC = 2
    GROUP = 3
    TRANSACTIONAL_ID = 5


class Operation(IntEnum):
    """What it allows."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DESCRIBE = 8


_OPTIONS = {Resource.TOPIC: "--topic", Resource.GROUP: "--group", Resource.TRANSACTIONAL_ID: "--transactional-id"}


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows a principal an operation."""

    principal: str
    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False
    """of all resources whose name begins so."""

    def command(self, bootstrap_servers: str) -> str:
        """The call of Kafka's own kafka-acls.sh that sets it."""
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap_servers, "--add", "--allow-principal", self.principal]
        words += ["--operation", self.operation.name.title()]
        words += [_OPTIONS[self.resource], self.name]
        if self.prefixed:
            words += ["--resource-pattern-type", "prefixed"]
        return shlex.join(words)


def reader_rules(principal: str, names: TopicNames, group_prefix: str) -> list[Rule]:
    """What somebody needs who consumes some topics, by groups that are named so."""
    topics = [
        Rule(principal, operation, Resource.TOPIC, topic)
        for topic in names.all
        for operation in (Operation.READ, Operation.DESCRIBE)
    ]
    return [*topics, Rule(principal, Operation.READ, Resource.GROUP, group_prefix, prefixed=True)]


def relay_rules(principal: str, names: TopicNames) -> list[Rule]:
    """What relays and schedulers need, which share a principal, and who replays events or sets such rules."""
    topics = [(topic, False) for topic in names.all]
    if names.per_tenant:
        # Which tenants there will be is not known.
        topics = [(f"{prefix}.", True) for prefix in sorted({topic.partition(".")[0] for topic in names.all})]
    rules = [
        Rule(principal, operation, Resource.TOPIC, topic, prefixed)
        for topic, prefixed in topics
        for operation in (Operation.CREATE, Operation.DESCRIBE, Operation.WRITE, Operation.READ)
    ]
    lanes = f"{names.events}.relay."
    return [
        *rules,
        *(
            Rule(principal, operation, Resource.TRANSACTIONAL_ID, lanes, prefixed=True)
            for operation in (Operation.WRITE, Operation.DESCRIBE)
        ),
    ]


def replay_rules(principal: str, topic_prefix: str) -> list[Rule]:
    """What `guildmesh events replay` needs for topics whose names begin so."""
    return [
        *(
            Rule(principal, operation, Resource.TOPIC, topic_prefix, prefixed=True)
            for operation in (Operation.CREATE, Operation.DESCRIBE, Operation.WRITE, Operation.READ)
        ),
        *(
            Rule(principal, operation, Resource.TRANSACTIONAL_ID, topic_prefix, prefixed=True)
            for operation in (Operation.WRITE, Operation.DESCRIBE)
        ),
        Rule(principal, Operation.READ, Resource.GROUP, f"guildmesh-replay.{topic_prefix}", prefixed=True),
    ]


async def set_rules(admin: AIOKafkaAdminClient, rules: Sequence[Rule]) -> None:
    """Sets the rules; one that is there stays.

    Raises:
        KafkaError: Kafka does not answer, or refuses: it has no authorizer, or the caller may not alter its rules.
    """
    for rule in rules:
        request = CreateAclsRequest(
            resource_type=rule.resource,
            resource_name=rule.name,
            resource_pattern_type_filter=_PREFIXED if rule.prefixed else _LITERAL,
            principal=rule.principal,
            host=_ANY_HOST,
            operation=rule.operation,
            permission_type=_ALLOW,
        )
        # aiokafka has the request, and no method of its administrator's client for it.
        response = await admin._send_to_controller(request)
        for code, message in response.creation_responses:
            if code:
                raise for_code(code)(message or for_code(code).description)
