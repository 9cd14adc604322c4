import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from services.common.errors import ConcurrentChange, DependencyUnavailable, InvalidRequest, NotFound, RoleRequired
from services.common.grpcx.status import HTTP_STATUS, to_status


class Missing(NotFound):
    reason = "TASK_NOT_FOUND"
    domain = "scheduler.guildmesh.dev"


def test_a_status_has_exactly_one_error_info() -> None:
    status = to_status(Missing("No task 'x'.", task_id="x"))
    assert (status.code, status.message, len(status.details)) == (5, "No task 'x'.", 1)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("TASK_NOT_FOUND", "scheduler.guildmesh.dev", {"task_id": "x"})


def test_each_broken_field_is_named() -> None:
    status = to_status(InvalidRequest([("task", "is empty"), ("priority", "is too large")]))
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == ["task", "priority"]
    assert status.message == "task: is empty; priority: is too large"


@pytest.mark.parametrize(("error", "seconds"), [(DependencyUnavailable("database", 1.5), 1.5), (ConcurrentChange(), 0.05)])
def test_an_error_that_passes_says_when_to_retry(error: DependencyUnavailable, seconds: float) -> None:
    retry = error_details_pb2.RetryInfo()
    assert to_status(error).details[1].Unpack(retry)
    expected = Duration()
    expected.FromNanoseconds(int(seconds * 1e9))
    assert retry.retry_delay == expected


def test_codes_mean_in_http_what_http_says_they_mean() -> None:
    named = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "RESOURCE_EXHAUSTED": 429}
    assert {name: HTTP_STATUS[name] for name in named} == named
    assert HTTP_STATUS["UNAVAILABLE"] == 503
    assert RoleRequired("admin", "operator").message == "This method needs one of the roles: admin, operator."
