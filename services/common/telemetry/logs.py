"""Structured logs (requirement row 10): JSON lines on stdout, errors on stderr, each with its call's trace and request id."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from services.common.context import current_call_or_none
from services.common.telemetry.lines import LineHandler
from services.common.telemetry.seldom import Seldom


def configure_logs(service: str, level: str = "INFO") -> None:
    """Sends structlog and the standard library's loggers through one JSON formatter."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_call,
        _add_service(service),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    root = logging.getLogger()
    root.handlers[:] = [
        _prepared(LineHandler(service), formatter, lambda record: record.levelno < logging.ERROR),
        _prepared(logging.StreamHandler(sys.stderr), formatter, lambda record: record.levelno >= logging.ERROR),
    ]
    # While Kafka is away it says so at each try of each connection.
    seldom = Seldom("aiokafka")
    for handler in root.handlers:
        handler.addFilter(seldom)
    root.setLevel(level.upper())
    for noisy in ("aiokafka", "asyncio", "httpx", "urllib3", "alembic"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def _prepared(handler: logging.Handler, formatter: logging.Formatter, accepts: Any) -> logging.Handler:
    handler.setFormatter(formatter)
    handler.addFilter(accepts)
    return handler


def _add_call(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    call = current_call_or_none()
    if call is not None:
        event.setdefault("request_id", call.request_id)
        if call.trace_id:
            event.setdefault("trace_id", call.trace_id)
    return event


def _add_service(service: str) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add
