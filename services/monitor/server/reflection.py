"""gRPC reflection of the public contracts, as v1 and, for older tools, as v1alpha.

Both have the same messages under different package names. grpcio-reflection brings only v1alpha; v1 is made from its descriptor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.common.grpcx.server import Registration
from services.monitor.server.access import ProbeAccess
from services.monitor.server.public import public_files, public_services

ALPHA = "grpc.reflection.v1alpha"
STABLE = "grpc.reflection.v1"
SERVICE = "ServerReflection"
METHOD = "ServerReflectionInfo"


def stable_file() -> descriptor_pb2.FileDescriptorProto:
    """grpc/reflection/v1/reflection.proto."""
    serialized: bytes = reflection_pb2.DESCRIPTOR.serialized_pb
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = STABLE
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{ALPHA}.", f".{STABLE}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{ALPHA}.", f".{STABLE}.")
        method.output_type = method.output_type.replace(f".{ALPHA}.", f".{STABLE}.")
    return file


def reflection_registrations(access: ProbeAccess) -> list[Registration]:
    """Both versions of the service over the public contracts."""
    _publish(stable_file())
    pool = descriptor_pool.DescriptorPool()
    for file in public_files().file:
        pool.Add(file)
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(stable_file())
    names = [*public_services(), "grpc.health.v1.Health", f"{STABLE}.{SERVICE}", f"{ALPHA}.{SERVICE}"]
    servicer = reflection.aio.ReflectionServicer(names, _MethodFindingPool(pool))
    return [_registration(package, servicer, access) for package in (STABLE, ALPHA)]


class _MethodFindingPool:
    """A pool that also finds the file of a method, which `grpcurl describe` asks for and Python's pool does not know."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """The file that has the symbol; raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            parent, _, name = symbol.rpartition(".")
            return self._pool.FindServiceByName(parent).methods_by_name[name].containing_service.file


def _publish(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Makes v1 known to this process, which reads the policy of every method from the default pool."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(file.name)
    except KeyError:
        pool.Add(file)


def _registration(package: str, servicer: Any, access: ProbeAccess) -> Registration:
    pool = descriptor_pool.Default()
    request = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.ServerReflectionRequest"))
    alpha_request = reflection_pb2.ServerReflectionRequest

    async def info(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        access.check()

        async def as_alpha() -> AsyncIterator[Any]:
            async for item in requests:
                yield alpha_request.FromString(item.SerializeToString())

        async for answer in servicer.ServerReflectionInfo(as_alpha(), context):
            yield answer

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        request_deserializer=request.FromString,
        # The two versions are the same on the wire.
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    name = f"{package}.{SERVICE}"

    def add(_: Any, server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {METHOD: handler}),))

    return Registration(add, servicer, name)
