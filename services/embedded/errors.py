"""What can go wrong before or while the mesh starts, told so that the reader knows what to do."""

from __future__ import annotations


class MeshError(Exception):
    """The mesh cannot do what was asked; the message is one line that says what to do."""


class NotReady(Exception):
    """A part does not answer yet; the message says what is missing. Raised by `Part.check`."""
