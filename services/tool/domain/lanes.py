"""How what is told of executions is shared between the processes of the tool service (see services.common.lanes)."""

from __future__ import annotations

from typing import Final

LOG_LANES: Final = 4
"""Lanes 0 to 3 tell the scheduler; a task's events are all in one of them."""
USAGE_LANE: Final = 4
"""This one tells Kafka: a record is small, so one process at a time keeps up with all."""
CHANNEL: Final = "guildmesh_tool"
"""of NOTIFY: something is to be told."""
