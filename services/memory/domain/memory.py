"""Memories: texts that are found by their meaning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.json_values import JsonObject, whole_numbers

DEFAULT_SEARCH_LIMIT = 10
"""matches given when a search names no limit."""

Embedding = Sequence[float]
"""A direction in the space of meanings: EMBEDDING_DIMENSIONS numbers whose squares sum to 1."""

EMBEDDING_DIMENSIONS = 384


@dataclass(frozen=True, slots=True)
class NewMemory:
    """What creates a memory."""

    content: str
    owner: str
    metadata: JsonObject
    request_id: str = ""
    """repeats with the same id give the first answer; empty for none."""

    def fingerprint(self) -> bytes:
        """Tells whether a repeat asks for the same memory."""
        # Sorted, because the members of a protobuf Struct come in any order.
        body = json.dumps([self.content, self.owner, whole_numbers(self.metadata)], sort_keys=True)
        return hashlib.sha256(body.encode()).digest()


@dataclass(frozen=True, slots=True)
class Memory:
    """A text that an agent or a user keeps."""

    memory_id: str
    content: str
    owner: str
    """groups memories, such as an agent or a task."""
    metadata: JsonObject
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Match:
    """A memory and how near it is."""

    memory: Memory
    score: float
    """cosine similarity to the query, from -1 to 1."""
