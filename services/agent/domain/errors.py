"""What a caller of the agent service is told when something cannot be done."""

from __future__ import annotations

from services.common.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable

DOMAIN = "agent.guildmesh.dev"


class AgentNotFound(NotFound):
    """The caller's tenant has no such agent."""

    reason = "AGENT_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, agent_id: str) -> None:
        super().__init__(f"No agent {agent_id!r}; list the agents with GET /v1/agents.", agent_id=agent_id)


class AgentAlreadyExists(AlreadyExists):
    """The agent id is taken."""

    reason = "AGENT_ALREADY_EXISTS"
    domain = DOMAIN

    def __init__(self, agent_id: str) -> None:
        super().__init__(f"The agent {agent_id!r} exists already.", agent_id=agent_id)


class ScenarioNotFound(NotFound):
    """The caller's tenant has no such scenario."""

    reason = "SCENARIO_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, scenario_id: str) -> None:
        super().__init__(f"No scenario {scenario_id!r}; create it with POST /v1/scenarios.", scenario_id=scenario_id)


class ScenarioAlreadyExists(AlreadyExists):
    """The scenario id is taken."""

    reason = "SCENARIO_ALREADY_EXISTS"
    domain = DOMAIN

    def __init__(self, scenario_id: str) -> None:
        super().__init__(f"The scenario {scenario_id!r} exists already.", scenario_id=scenario_id)


class ScenarioInvalid(InvalidArgument):
    """The steps do not form a plan; the message says why."""

    reason = "SCENARIO_INVALID"
    domain = DOMAIN

    def __init__(self, scenario_id: str, message: str) -> None:
        super().__init__(message, scenario_id=scenario_id)


class RunTooLarge(InvalidArgument):
    """The scenario and the inputs of a run do not fit the context of a task together."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"The scenario and its inputs are {size:,} bytes of JSON together, and a run takes {limit:,}; send smaller inputs.",
            size=str(size),
            limit=str(limit),
        )


class ConversationNotFound(NotFound):
    """The caller has no such conversation."""

    reason = "CONVERSATION_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"No conversation {conversation_id!r}; leave conversation_id out to start one.", conversation_id=conversation_id
        )


class ModelUnavailable(Unavailable):
    """The language model gives no answer; a repeat after `retry_after` seconds may get one."""

    reason = "MODEL_UNAVAILABLE"
    domain = DOMAIN

    def __init__(self, provider: str, retry_after: float = 5.0, why: str = "does not answer") -> None:
        super().__init__(
            f"The language model of the provider {provider!r} {why}; retry in {retry_after:.0f} s.", provider=provider
        )
        self.retry_after = retry_after
