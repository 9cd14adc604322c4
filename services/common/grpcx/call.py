"""One call that a server is serving, as its interceptors see it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc

from services.common.certificates import IDENTITY_SUFFIX
from services.common.grpcx.policy import MethodPolicy


@dataclass(slots=True)
class ServerCall:
    """What the stages of the chain share about a call."""

    policy: MethodPolicy
    context: grpc.aio.ServicerContext[Any, Any]
    started: float = field(default_factory=time.perf_counter)
    metadata: Mapping[str, str] = field(init=False)
    """what the caller sent, but for binary values, which have keys of their own (…-bin)."""

    def __post_init__(self) -> None:
        self.metadata = dict(self.context.invocation_metadata() or ())  # type: ignore[arg-type]

    @property
    def code(self) -> str:
        """Name of the status code, once the call has ended; OK when nothing set another."""
        code = self.context.code()
        if isinstance(code, grpc.StatusCode):
            return code.name
        return "OK" if not code else next((item.name for item in grpc.StatusCode if item.value[0] == code), "UNKNOWN")

    @property
    def peer(self) -> str:
        """The service in the certificate of the connection; empty when it has none of the mesh's."""
        return _identity(tuple(self.context.auth_context().get("x509_subject_alternative_name", ())))


# A mesh has some ten certificates; each call comes with the names of one.
@lru_cache(maxsize=128)
def _identity(names: tuple[bytes, ...]) -> str:
    for name in names:
        text = name.decode()
        if text.endswith(IDENTITY_SUFFIX):
            return text.removesuffix(IDENTITY_SUFFIX)
    return ""
