"""What a command says when it cannot do what was asked: one line that says what to do."""

from __future__ import annotations

import grpc


class CommandError(Exception):
    """The command cannot go on; the message is one line that says what to do."""


def explain(error: grpc.RpcError) -> str:
    """One line for a call that failed."""
    if not isinstance(error, grpc.Call):
        return str(error)
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"The mesh does not answer ({details}); see `guildmesh status`, or check GUILDMESH_GRPC."
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return f'{details} Get a fresh token: eval "$(guildmesh env)".'
    return f"{details} ({code.name})"
