"""Where the commands write."""

from __future__ import annotations

import sys

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console

# A table for a file or a pipe keeps its columns; what reads it has no width.
out = Console(width=None if sys.stdout.isatty() else 250)
err = Console(stderr=True)

STATE_STYLES = {
    "scheduled": "dim",
    "waiting": "magenta",
    "blocked": "dim",
    "pending": "dim",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
}


def print_json(message: Message) -> None:
    """Prints a message as JSON with the field names of the contract, as the REST API does."""
    text = MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    out.print_json(text, ensure_ascii=False)
