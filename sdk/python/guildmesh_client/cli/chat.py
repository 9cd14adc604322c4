"""`guildmesh chat`."""

from __future__ import annotations

from typing import Annotated

import typer
from guildmesh.agent.v1 import agent_service_pb2 as pb
from guildmesh.agent.v1 import agent_service_pb2_grpc as stubs

from guildmesh_client.cli.connection import connect
from guildmesh_client.cli.output import err, out

# A slow model may think for long; the service has its own, shorter bound for one request to it.
_SECONDS = 180.0


def chat(
    message: Annotated[str, typer.Argument(help="What you say.")],
    conversation: Annotated[str, typer.Option("--conversation", "-c", help="Go on with this conversation.")] = "",
) -> None:
    """Say something to the agent; the answer goes to stdout, the conversation's id to stderr."""
    request = pb.SendChatRequest(message=message)
    if conversation:
        request.conversation_id = conversation
    with connect() as connection:
        stub = stubs.AgentServiceStub(connection.channel)
        response = stub.SendChat(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(response.response, highlight=False, markup=False, soft_wrap=True)
    hint = f"({response.provider} {response.model}; go on with --conversation {response.conversation_id})"
    err.print(hint, style="dim", highlight=False, markup=False, soft_wrap=True)
