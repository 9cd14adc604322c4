"""The rule of the effect ledger: what to do when a step is asked for that the ledger knows already.

The ledger has one row per (tenant, task, step). It keeps the first answer and the highest attempt that has asked.
"""

from __future__ import annotations

from enum import Enum, auto

from services.tool.domain.model import Execution, UsageState

LEASE_SECONDS = 15.0
"""A running row belongs to its process for so long, by the database's clock; the process renews it while it lives."""
RENEW_SECONDS = 5.0


class Step(Enum):
    """What a request for a known step does."""

    RUN = auto()
    """run the tool; the row is ours."""
    REPLAY = auto()
    """give the first answer."""
    WAIT = auto()
    """another request is running it; wait for its answer."""
    STALE = auto()
    """a newer attempt has asked; refuse."""
    UNKNOWN = auto()
    """it was cut off and must not run twice; refuse."""


def decide(known: Execution, attempt: int, cut_off: bool) -> Step:
    """What a request of `attempt` does with the row `known`; `cut_off` tells that its running process is gone."""
    if attempt < known.attempt:
        return Step.STALE
    if known.state is UsageState.ENDED:
        return Step.REPLAY
    if known.state is UsageState.RUNNING and not cut_off:
        return Step.WAIT
    return Step.RUN if known.effect.repeatable else Step.UNKNOWN
