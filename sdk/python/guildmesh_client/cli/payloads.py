"""`guildmesh payloads`: bodies that are too large for a task, up and down in pieces."""

from __future__ import annotations

import mimetypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer
from google.api.httpbody_pb2 import HttpBody
from guildmesh.scheduler.v1 import payload_pb2
from guildmesh.scheduler.v1 import payload_service_pb2 as pb
from guildmesh.scheduler.v1 import payload_service_pb2_grpc as stubs

from guildmesh_client.cli.connection import Connection, connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import out, print_json
from guildmesh_client.payloads import PIECE_BYTES

app = typer.Typer(help="Payloads: upload, get, download, delete.", no_args_is_help=True)

_SECONDS = 30.0
_UNKNOWN_TYPE = "application/octet-stream"

PayloadId = Annotated[str, typer.Argument(help="The id of the payload.")]


@app.command("upload")
def upload_file(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="The file; - for stdin.")],
    content_type: Annotated[str, typer.Option(help="What it is, such as application/json; guessed from the name if empty.")] = "",
) -> None:
    """Upload a file of any size and print the id of the payload."""
    with connect() as connection:
        kind = content_type or mimetypes.guess_type(file.name)[0] or _UNKNOWN_TYPE
        out.print(upload(connection, file, kind).payload_id, highlight=False)


@app.command("get")
def get_payload(payload_id: PayloadId) -> None:
    """Show what a payload is, as JSON, without its body."""
    with connect() as connection:
        stub = stubs.PayloadServiceStub(connection.channel)
        request = pb.GetPayloadRequest(payload_id=payload_id)
        print_json(stub.GetPayload(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("download")
def download_payload(
    payload_id: PayloadId,
    to: Annotated[Path | None, typer.Option(help="The file to write, whole or not at all; stdout if it is not given.")] = None,
) -> None:
    """Download the body of a payload."""
    with connect() as connection, _target(to) as file:
        stub = stubs.PayloadServiceStub(connection.channel)
        for piece in stub.DownloadPayload(pb.DownloadPayloadRequest(payload_id=payload_id), metadata=connection.metadata):
            file.write(piece.data)


@app.command("delete")
def delete_payload(payload_id: PayloadId) -> None:
    """Delete a payload that no task uses."""
    with connect() as connection:
        stub = stubs.PayloadServiceStub(connection.channel)
        stub.DeletePayload(pb.DeletePayloadRequest(payload_id=payload_id), metadata=connection.metadata, timeout=_SECONDS)
    out.print(f"{payload_id} is deleted", highlight=False)


def upload(connection: Connection, file: IO[bytes], content_type: str) -> payload_pb2.Payload:
    """Uploads what is in a file, in pieces."""

    def pieces() -> Iterator[HttpBody]:
        while piece := file.read(PIECE_BYTES):
            yield HttpBody(content_type=content_type, data=piece)

    return stubs.PayloadServiceStub(connection.channel).UploadPayload(pieces(), metadata=connection.metadata)


@contextmanager
def _target(to: Path | None) -> Iterator[IO[bytes]]:
    """Where a body is written: a file takes its name when all of it is there."""
    if to is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        handle, name = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}-")
    except OSError as error:
        raise CommandError(f"Cannot write to {to.parent}: {error.strerror}; choose another folder with --to.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(name, to)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
