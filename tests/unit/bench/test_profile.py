"""Where the samples of a profile are counted."""

from __future__ import annotations

from bench.profile import hottest, where

FOLDED = [
    "run (uvloop/__init__.py:92);serve (services/common/grpcx/chain.py:3);validate (services/common/validation.py:41) 6",
    "run (uvloop/__init__.py:92);create (services/scheduler/storage/batches.py:3);execute (asyncpg/connection.py:9) 3",
    "run (uvloop/__init__.py:92) 1",
    "not a stack",
]


def test_a_sample_belongs_to_the_innermost_part() -> None:
    assert where(FOLDED) == [("validation", 0.6), ("driver of PostgreSQL", 0.3), ("gRPC and event loop", 0.1)]


def test_the_hottest_functions_are_those_that_samples_end_in() -> None:
    assert hottest(FOLDED, 1) == ["60.0% validate (services/common/validation.py:41)"]
