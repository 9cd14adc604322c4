"""Lines of the log that come with every call: the same JSON as from structlog, without its way through many functions."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import structlog

from services.common.context import CallContext, current_call_or_none


class LineHandler(logging.StreamHandler[TextIO]):
    """The handler of standard output; it can also be given a line that is ready."""

    def __init__(self, service: str) -> None:
        super().__init__(sys.stdout)
        self.service = service

    def write(self, line: str) -> None:
        """Writes a whole line at once, between those of other threads."""
        self.acquire()
        try:
            self.stream.write(line)
            self.stream.flush()
        finally:
            self.release()


class LineLogger:
    """Writes events of plain fields about the current call.

    A line through structlog and logging takes 45 µs, this one 10, and several times that where the code has left the processor's
    caches since the call before. Where the root logger has handlers other than `configure_logs` gave it, as in a
    test that looks at records, the event goes through structlog.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._logger = logging.getLogger(name)
        self._structured = structlog.get_logger(name)

    def log(self, level: int, event: str, fields: dict[str, str | float]) -> None:
        """Writes the event with its fields, the call's ids and the time; `level` is below ERROR, which goes elsewhere."""
        if not self._logger.isEnabledFor(level):
            return
        handlers = logging.root.handlers
        if len(handlers) == 2 and isinstance(handler := handlers[0], LineHandler):
            try:
                handler.write(_line(self._name, level, event, fields, handler.service, current_call_or_none()))
            except (OSError, ValueError):
                pass  # structlog's way tells of it
            else:
                return
        self._structured.log(level, event, **fields)


def _line(logger: str, level: int, event: str, fields: dict[str, str | float], service: str, call: CallContext | None) -> str:
    body = fields | {
        "event": event,
        "logger": logger,
        "level": logging.getLevelName(level).lower(),
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
    if call is not None:
        body["request_id"] = call.request_id
        if trace_id := call.trace_id:
            body["trace_id"] = trace_id
    body["service"] = service
    return json.dumps(body) + "\n"
