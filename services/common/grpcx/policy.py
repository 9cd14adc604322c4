"""The access rules of methods, read from the contracts; the only reader of guildmesh.common.v1.policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from guildmesh.common.v1 import policy_pb2

Access = Literal["anonymous", "authenticated", "service"]
_ACCESS: dict[int, Access] = {
    policy_pb2.ACCESS_ANONYMOUS: "anonymous",
    policy_pb2.ACCESS_AUTHENTICATED: "authenticated",
    policy_pb2.ACCESS_SERVICE: "service",
}
# Third-party services that tell nothing of any tenant; every certificate of the mesh may ask them.
OPEN_SERVICES = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
)


@dataclass(frozen=True, slots=True)
class MethodPolicy:
    """Who may call a method, and how it is called in metrics."""

    method: str
    """full name as on the wire: /package.Service/Method."""
    access: Access
    roles: frozenset[str]
    callers: frozenset[str]
    """certificate identities; empty for any of the mesh."""
    idempotent: bool
    http_method: str
    endpoint: str
    request_type: str
    watch_ticket: bool = False
    """whether the ticket of one task does in place of a token."""

    @property
    def service(self) -> str:
        """Full name of the method's service."""
        return self.method[1:].partition("/")[0]


class PolicyMissing(RuntimeError):
    """A method without an access rule; the server must not start."""


def policies(service: str) -> Iterable[MethodPolicy]:
    """The policy of each method of a service such as "guildmesh.scheduler.v1.SchedulerService".

    Raises:
        PolicyMissing: a method has no policy, or one that allows nobody.
    """
    descriptor = descriptor_pool.Default().FindServiceByName(service)
    for method in descriptor.methods:
        yield _policy(service, method)


def _policy(service: str, method: MethodDescriptor) -> MethodPolicy:
    path = f"/{service}/{method.name}"
    request_type = method.input_type.full_name
    if service in OPEN_SERVICES:
        return MethodPolicy(path, "anonymous", frozenset(), frozenset(), True, "GRPC", path, request_type)
    options = method.GetOptions()
    rule = options.Extensions[policy_pb2.policy]
    access = _ACCESS.get(rule.access)
    if access is None or not rule.callers:
        raise PolicyMissing(f"{path} has no (guildmesh.common.v1.policy) with access and callers")
    http_method, endpoint = "GRPC", path
    http = options.Extensions[annotations_pb2.http]
    verb = http.WhichOneof("pattern")
    if verb is not None and verb != "custom":
        http_method, endpoint = verb.upper(), getattr(http, verb)
    return MethodPolicy(
        path,
        access,
        frozenset(rule.roles),
        frozenset(rule.callers),
        rule.idempotent,
        http_method,
        endpoint,
        request_type,
        rule.watch_ticket,
    )
