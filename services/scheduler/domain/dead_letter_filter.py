"""Which dead letters are meant: filters as AIP-160 writes them."""

from __future__ import annotations

from services.scheduler.domain.task_filter import EQUALITY, ORDER, Condition, Fields, parse_filter, time_of, whole

Conditions = tuple[Condition, ...]


def _truth(text: str) -> int:
    if text.lower() not in ("true", "false"):
        raise ValueError("it is true or false")
    return int(text.lower() == "true")


_FIELDS: Fields = {
    "reason": (EQUALITY, str),
    "kind": (EQUALITY, str),
    "replayed": (("=",), _truth),
    "attempts": (EQUALITY + ORDER, whole),
    "fail_time": (ORDER, time_of),
}


def parse_dead_letter_filter(text: str) -> Conditions:
    """The conditions of a filter, where `replayed` has 1 for true; raises InvalidFilter."""
    return parse_filter(text, _FIELDS)
