"""Envoy's routes, read from the contracts: the policy option says who may call a method, google.api.http where it is in REST."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from guildmesh.common.v1 import policy_pb2

from services.common.resources import resource

Json = dict[str, Any]

FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
JWT = "envoy.filters.http.jwt_authn"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
INPUT = "guildmesh.input"
BUFFER = "envoy.filters.http.buffer"

UNARY_TIMEOUT = 300
"""Seconds a unary call may take at the gateway: a chat with a slow model fits, a lost call does not stay for ever."""

MAX_BODY_BYTES = 8 * 1024 * 1024
"""A REST body that reaches a service. A context of 1 MiB (requirement row 3) is at most six times as long when escaped."""

PROBE_METHODS = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
"""gRPC's own services, which monitor answers for the whole mesh."""

# What Envoy does to the input of a method before the transcoder reads it: method -> Lua source in gateway/.
INPUT_SCRIPTS = {
    "/guildmesh.identity.v1.IdentityService/IssueToken": "token_form",
    "/guildmesh.scheduler.v1.SchedulerService/StreamTaskEvents": "last_event_id",
    "/guildmesh.scheduler.v1.SchedulerService/StreamEvents": "last_event_id",
}


@dataclass(frozen=True)
class PublicMethod:
    """A method that the gateway's certificate may call."""

    path: str
    """gRPC path, "/guildmesh.x.v1.XService/Method"."""
    service: str
    """full name of the gRPC service."""
    cluster: str
    """the mesh's service that answers it."""
    anonymous: bool
    streaming: bool
    uploading: bool
    """whether the caller streams: a REST body is not gathered before it is passed on."""
    idempotent: bool
    watch_ticket: bool
    """whether a REST caller may come with the ticket or the cookie of one task."""
    rest: tuple[tuple[str, str], ...]
    """pairs of HTTP method and path template."""


@cache
def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Every contract of the mesh, as the transcoder and reflection read it."""
    return descriptor_pb2.FileDescriptorSet.FromString(resource("descriptors/guildmesh.binpb").read_bytes())


def public_methods(files: descriptor_pb2.FileDescriptorSet | None = None) -> tuple[PublicMethod, ...]:
    """The methods that may be called from outside: those whose policy lists the caller "gateway"."""
    return tuple(_public_methods(files or descriptor_set()))


def _public_methods(files: descriptor_pb2.FileDescriptorSet) -> Iterator[PublicMethod]:
    for file in files.file:
        for service in file.service:
            for method in service.method:
                policy = method.options.Extensions[policy_pb2.policy]
                if "gateway" not in policy.callers:
                    continue
                name = f"{file.package}.{service.name}"
                yield PublicMethod(
                    path=f"/{name}/{method.name}",
                    service=name,
                    cluster=file.package.split(".")[1],
                    anonymous=policy.access == policy_pb2.ACCESS_ANONYMOUS,
                    uploading=method.client_streaming,
                    streaming=method.client_streaming or method.server_streaming,
                    idempotent=policy.idempotent,
                    watch_ticket=policy.watch_ticket,
                    rest=tuple(_bindings(method.options.Extensions[annotations_pb2.http])),
                )


def _bindings(rule: http_pb2.HttpRule) -> Iterator[tuple[str, str]]:
    kind = rule.WhichOneof("pattern")
    if kind:
        yield kind.upper(), getattr(rule, kind)
    for further in rule.additional_bindings:
        yield from _bindings(further)


def routes(methods: tuple[PublicMethod, ...], *, development: bool) -> list[Json]:
    """The route table: gRPC paths, REST paths, then what answers 405 and 404.

    A REST request passes twice: by its own path, where its token is asked for, and, once transcoded, by its gRPC path.
    """
    rest = sorted(
        ((verb, template, method) for method in methods for verb, template in method.rest),
        # Plain paths before patterns, a custom verb before the pattern that would swallow it.
        key=lambda entry: ("{" in entry[1], ":" not in entry[1], entry[1], entry[0]),
    )
    return [
        *(_grpc_route(method) for method in methods),
        *(_probe_route(path, anonymous=development) for path in PROBE_METHODS),
        # gRPC of no known method; Envoy answers it UNIMPLEMENTED.
        {"match": {"prefix": "/", "grpc": {}}, "direct_response": {"status": 404}, "typed_per_filter_config": _as_it_is()},
        _preflight(),
        *(_rest_route(verb, template, method) for verb, template, method in rest),
        *_other_verbs(rest),
        {"match": {"prefix": "/"}, "direct_response": {"status": 404}, "typed_per_filter_config": _as_it_is()},
    ]


def _grpc_route(method: PublicMethod) -> Json:
    return {
        "match": {"path": method.path, "grpc": {}},
        "route": _action(method.cluster, streaming=method.streaming, idempotent=method.idempotent),
        "typed_per_filter_config": {JWT: _requirement(anonymous=method.anonymous)},
    }


def _probe_route(path: str, *, anonymous: bool) -> Json:
    return {
        "match": {"path": path, "grpc": {}},
        "route": _action("monitor", streaming=not path.endswith(("Check", "List")), idempotent=True),
        "typed_per_filter_config": {JWT: _requirement(anonymous=anonymous), TRANSCODER: _without_transcoder()},
    }


def _preflight() -> Json:
    """A browser's question before a call. The CORS filter answers it; that of a foreign origin ends as an unknown path."""
    headers = [
        {"name": ":method", "string_match": {"exact": "OPTIONS"}},
        {"name": "access-control-request-method", "present_match": True},
    ]
    return {
        "match": {"prefix": "/", "headers": headers},
        "route": {"cluster": "monitor"},
        "typed_per_filter_config": {JWT: _requirement(anonymous=True)},
    }


def _rest_route(verb: str, template: str, method: PublicMethod) -> Json:
    filters = {JWT: _requirement(anonymous=method.anonymous, watch_ticket=method.watch_ticket)}
    if not method.uploading:
        filters[BUFFER] = _body_limit()
    if method.path in INPUT_SCRIPTS:
        filters[INPUT] = {"@type": f"{FILTERS}.lua.v3.LuaPerRoute", "name": INPUT_SCRIPTS[method.path]}
    match = _path_match(template)
    match["headers"] = [{"name": ":method", "string_match": {"exact": verb}}]
    return {
        "match": match,
        "route": _action(method.cluster, streaming=method.streaming, idempotent=method.idempotent),
        "typed_per_filter_config": filters,
    }


def _other_verbs(rest: list[tuple[str, str, PublicMethod]]) -> Iterator[Json]:
    allowed: dict[str, list[str]] = {}
    for verb, template, _ in rest:
        # What a variable is called, such as {schedule.schedule_id} in an update, makes no other path of it.
        allowed.setdefault(re.sub(r"\{[^}]+\}", "{}", template), []).append(verb)
    for template, verbs in allowed.items():
        yield {
            "match": _path_match(template),
            "direct_response": {"status": 405},
            "response_headers_to_add": [{"header": {"key": "allow", "value": ", ".join(sorted(verbs))}}],
            "typed_per_filter_config": _as_it_is(),
        }


def _path_match(template: str) -> Json:
    if "{" not in template:
        return {"path": template}
    parts = re.split(r"\{[^}]*\}", template)
    return {"safe_regex": {"regex": "[^/]+".join(re.escape(part) for part in parts)}}


def _action(cluster: str, *, streaming: bool, idempotent: bool) -> Json:
    # A connection that could not be made, or broke before the request was sent, is safe to repeat for every method.
    retry_on = "connect-failure,refused-stream,reset-before-request" + (",reset" if idempotent and not streaming else "")
    return {
        "cluster": cluster,
        "timeout": "0s" if streaming else f"{UNARY_TIMEOUT}s",
        **({"idle_timeout": "0s"} if streaming else {}),
        # grpc-timeout passes on untouched: client and service end a call at its deadline, each with the right status.
        "retry_policy": {
            "retry_on": retry_on,
            # About a second and a half in all: a service that restarts at once is not noticed.
            "num_retries": 5,
            "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
        },
    }


def _requirement(*, anonymous: bool, watch_ticket: bool = False) -> Json:
    per_route = {"@type": f"{FILTERS}.jwt_authn.v3.PerRouteConfig"}
    name = "bearer_or_watch_ticket" if watch_ticket else "bearer"
    return per_route | ({"disabled": True} if anonymous else {"requirement_name": name})


def _body_limit() -> Json:
    # The transcoder alone would pass a body of any size on, piece by piece.
    return {"@type": f"{FILTERS}.buffer.v3.BufferPerRoute", "buffer": {"max_request_bytes": MAX_BODY_BYTES}}


def _without_transcoder() -> Json:
    return {"@type": f"{FILTERS}.grpc_json_transcoder.v3.GrpcJsonTranscoder", "services": []} | {"proto_descriptor_bin": ""}


def _as_it_is() -> Json:
    return {JWT: _requirement(anonymous=True), TRANSCODER: _without_transcoder()}
