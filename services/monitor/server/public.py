"""What of the contracts the outside may see: the methods that the gateway may call."""

from __future__ import annotations

from functools import cache

from google.protobuf import descriptor_pb2
from guildmesh.common.v1 import policy_pb2

from services.common.resources import resource

GATEWAY = "gateway"


@cache
def public_files() -> descriptor_pb2.FileDescriptorSet:
    """The descriptor set of all contracts, without services and methods that only the mesh itself may call."""
    files = descriptor_pb2.FileDescriptorSet.FromString(resource("descriptors/guildmesh.binpb").read_bytes())
    for file in files.file:
        for service in file.service:
            public = [method for method in service.method if GATEWAY in method.options.Extensions[policy_pb2.policy].callers]
            del service.method[:]
            service.method.extend(public)
        services = [service for service in file.service if service.method]
        del file.service[:]
        file.service.extend(services)
    return files


@cache
def public_services() -> dict[str, str]:
    """Full name of each public gRPC service -> the service of the mesh that answers it."""
    return {
        f"{file.package}.{service.name}": file.package.split(".")[1] for file in public_files().file for service in file.service
    }
