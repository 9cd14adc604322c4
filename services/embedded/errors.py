"""What can go wrong before or while the mesh starts, told so that the reader knows what to do."""

from __future__ import annotations

from pydantic import ValidationError


class MeshError(Exception):
    """The mesh cannot do what was asked; the message is one line that says what to do."""


class NotReady(Exception):
    """A part does not answer yet; the message says what is missing. Raised by `Part.check`."""


def first_problem(error: ValidationError) -> str:
    """The first setting that is wrong, and what is wrong with it."""
    problem = error.errors()[0]
    what = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), what)))
