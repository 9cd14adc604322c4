"""How a mesh puts events on Kafka, for those who read them there or publish them again."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import ValidationError

from services.embedded.errors import MeshError, first_problem
from services.scheduler.relay.settings import RelaySettings

_FIELDS = ("events_topic", "state_topic", "dead_letters_topic", "topic_per_tenant", "value_format")


def event_exports() -> dict[str, str]:
    """What of it is not the default, by the names of the environment.

    Raises:
        MeshError: a setting is wrong.
    """
    try:
        # The addresses are not what is asked for here; they only have to be there.
        settings = RelaySettings(kafka_bootstrap_servers="unused:1", database_url="unused", enable_tracing=False)
    except ValidationError as error:
        raise MeshError(f"{first_problem(error)} (in the environment or in .env).") from error
    found = {}
    for field in _FIELDS:
        value, info = getattr(settings, field), RelaySettings.model_fields[field]
        if value != info.default:
            found[str(info.validation_alias)] = str(value).lower() if isinstance(value, bool) else value
    return found


def as_exported(exports: Mapping[str, str]) -> dict[str, str]:
    """The settings, by their fields, of a mesh that runs; what the environment says of them goes before."""
    names = {field: str(RelaySettings.model_fields[field].validation_alias) for field in _FIELDS}
    return {field: exports[name] for field, name in names.items() if name in exports and name not in os.environ}
