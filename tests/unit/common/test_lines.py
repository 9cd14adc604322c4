"""A line that goes straight to standard output says what structlog's would say."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from services.common.context import CallContext, _current
from services.common.telemetry.lines import LineLogger
from tests.support.logs import configured

FIELDS: dict[str, str | float] = {"method": "/a.B/C", "duration_ms": 1.25, "subject": 'jörg "\n'}


@pytest.mark.parametrize("traceparent", ["", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"])
@pytest.mark.parametrize("within", [True, False])
def test_the_fields_are_those_of_structlog_in_its_order(
    capsys: pytest.CaptureFixture[str], within: bool, traceparent: str
) -> None:
    token = _current.set(CallContext("id-1", traceparent=traceparent) if within else None)
    with configured():
        LineLogger("access").log(logging.INFO, "call", FIELDS)
        structlog.get_logger("access").info("call", **FIELDS)
    _current.reset(token)
    out, err = capsys.readouterr()
    line, expected = out.splitlines()
    time, expected_time = json.loads(line)["timestamp"], json.loads(expected)["timestamp"]
    assert line.replace(time, "") == expected.replace(expected_time, "")
    assert (time[-1], err) == ("Z", "")


def test_a_level_that_is_not_asked_for_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        LineLogger("access").log(logging.DEBUG, "call", FIELDS)
    assert capsys.readouterr() == ("", "")


def test_another_handler_gets_the_event_as_a_record() -> None:
    records: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    with configured():
        logging.getLogger().addHandler(Kept())
        LineLogger("access").log(logging.INFO, "call", FIELDS)
    assert [record.name for record in records] == ["access"]
