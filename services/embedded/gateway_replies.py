"""What Envoy itself answers, as google.rpc.Status: JSON for REST, a message and details for native gRPC."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

Json = dict[str, Any]

DOMAIN = "guildmesh.dev"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


@dataclass(frozen=True)
class Reply:
    """One kind of error that Envoy makes."""

    status: int
    """HTTP status."""
    code: int
    """google.rpc.Code."""
    reason: str
    """ErrorInfo reason: a value of guildmesh.common.v1.ErrorReason without its prefix."""
    message: str
    """what the caller reads; may hold Envoy's %FORMAT% commands."""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after: int | None = None
    """seconds, for Retry-After."""
    answered: int | None = None
    """HTTP status that is sent in place of `status`."""


_DOCS = "GET /docs lists what there is."
_UNAUTHENTICATED = (
    "This method needs a valid bearer token (%LOCAL_REPLY_BODY%): get one from POST /auth/token and send it as 'Authorization:"
    " Bearer TOKEN'. A browser's EventSource needs a ticket from POST /v1/watch-tickets."
)
_UPSTREAM = {"dependency": "%UPSTREAM_CLUSTER%"}
REPLIES = (
    Reply(
        400,
        code_pb2.INVALID_ARGUMENT,
        "MALFORMED_REQUEST",
        "The request could not be read; GET /docs shows what this path takes. %LOCAL_REPLY_BODY%",
    ),
    Reply(
        401,
        code_pb2.UNAUTHENTICATED,
        "UNAUTHENTICATED",
        _UNAUTHENTICATED,
    ),
    Reply(
        403,
        code_pb2.UNAUTHENTICATED,
        "UNAUTHENTICATED",
        _UNAUTHENTICATED,
        # Envoy's answer to a token for someone else; it is no better than none.
        answered=401,
    ),
    Reply(
        404,
        code_pb2.NOT_FOUND,
        "PATH_NOT_FOUND",
        f"There is nothing at this path; {_DOCS}",
        {"path": "%PATH(NQ:ORIG_OR_PATH)%"},
    ),
    Reply(
        405,
        code_pb2.UNIMPLEMENTED,
        "METHOD_NOT_ALLOWED",
        "This path does not take this HTTP method; the header Allow names those it takes.",
        {"method": "%REQ(:METHOD)%"},
    ),
    Reply(408, code_pb2.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "The request did not arrive in time; send it again, faster."),
    Reply(
        413,
        code_pb2.RESOURCE_EXHAUSTED,
        "REQUEST_TOO_LARGE",
        "The request is larger than the gateway takes (8 MiB); send less: a context may be 1 MiB as compact JSON.",
    ),
    Reply(415, code_pb2.INVALID_ARGUMENT, "MALFORMED_REQUEST", "This content type is not understood; send application/json."),
    Reply(
        426,
        code_pb2.FAILED_PRECONDITION,
        "MALFORMED_REQUEST",
        "This protocol version is not spoken here; use HTTP/1.1 or HTTP/2.",
    ),
    Reply(
        431,
        code_pb2.RESOURCE_EXHAUSTED,
        "HEADERS_TOO_LARGE",
        "The request has more than 100 headers, or more than 16 KiB of them; send less.",
    ),
    Reply(501, code_pb2.UNIMPLEMENTED, "PATH_NOT_FOUND", f"This is not served here; {_DOCS}"),
    Reply(502, code_pb2.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE", "A service broke off its answer; retry in 1 s.", _UPSTREAM, 1),
    Reply(503, code_pb2.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE", "A service does not answer; retry in 1 s.", _UPSTREAM, 1),
    Reply(
        504,
        code_pb2.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "The deadline passed before the answer was ready; retry with a longer one.",
        _UPSTREAM,
    ),
)
OTHER = Reply(
    500,
    code_pb2.INTERNAL,
    "INTERNAL",
    "The gateway could not answer; report it with the header x-request-id.",
    {"request_id": "%REQ(X-REQUEST-ID)%"},
)

_GRPC_STATUS = {401: code_pb2.UNAUTHENTICATED, 403: code_pb2.UNAUTHENTICATED, 404: code_pb2.UNIMPLEMENTED}
"""What Envoy makes of an HTTP status for a native gRPC call, where it is always the same and says more than "unavailable"."""


def local_replies() -> Json:
    """Envoy's local_reply_config."""
    native = [_native(reply) for reply in REPLIES]
    return {"mappers": [*native, *(_rest(reply) for reply in REPLIES), _other()], "body_format": _json_format(OTHER)}


def _rest(reply: Reply) -> Json:
    return {
        "filter": _status_is(reply.status),
        "body_format_override": _json_format(reply),
        **_retry_after(reply),
        **_answered(reply),
    }


def _other() -> Json:
    comparison = {"op": "GE", "value": {"default_value": 400, "runtime_key": "guildmesh.any_error"}}
    return {"filter": {"status_code_filter": {"comparison": comparison}}, "body_format_override": _json_format(OTHER)}


def _native(reply: Reply) -> Json:
    """For a native gRPC call the text becomes grpc-message; the details have no place for what varies."""
    headers = _retry_after(reply).get("headers_to_add", [])
    if reply.status in _GRPC_STATUS:
        message = reply.message.replace(" (%LOCAL_REPLY_BODY%)", "")
        status = status_pb2.Status(code=_GRPC_STATUS[reply.status], message=message)
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=reply.reason, domain=DOMAIN))
        status.details.append(detail)
        encoded = base64.b64encode(status.SerializeToString(deterministic=True)).decode().rstrip("=")
        headers = [*headers, _header("grpc-status-details-bin", encoded)]
    return {
        "filter": {"and_filter": {"filters": [_status_is(reply.status), *_is_native_grpc()]}},
        "body_format_override": {"text_format_source": {"inline_string": reply.message}, "content_type": "text/plain"},
        "headers_to_add": headers,
        **_answered(reply),
    }


def _is_native_grpc() -> list[Json]:
    kind = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    # The transcoder makes a gRPC request of a REST one and keeps its path here.
    transcoded = {"name": "x-envoy-original-path", "present_match": True, "invert_match": True}
    return [{"header_filter": {"header": kind}}, {"header_filter": {"header": transcoded}}]


def _status_is(status: int) -> Json:
    comparison = {"op": "EQ", "value": {"default_value": status, "runtime_key": f"guildmesh.status_{status}"}}
    return {"status_code_filter": {"comparison": comparison}}


def _json_format(reply: Reply) -> Json:
    info = {"@type": ERROR_INFO, "reason": reply.reason, "domain": DOMAIN, "metadata": reply.metadata}
    return {"json_format": {"code": reply.code, "message": reply.message, "details": [info]}}


def _retry_after(reply: Reply) -> Json:
    if reply.retry_after is None:
        return {}
    return {"headers_to_add": [_header("retry-after", str(reply.retry_after))]}


def _answered(reply: Reply) -> Json:
    return {} if reply.answered is None else {"status_code": reply.answered}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
