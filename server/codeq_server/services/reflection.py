"""gRPC reflection, v1 and, for older clients, v1alpha; both have the same wire format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as OLD_NAME
from grpc_reflection.v1alpha.reflection import aio

NAME: Final = "grpc.reflection.v1.ServerReflection"


def enable_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Adds both versions of reflection to a server; they list these services and themselves."""
    _know_v1()
    servicer = _Reflection((*services, NAME, OLD_NAME))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(NAME, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handlers,))


class _Reflection(aio.ReflectionServicer):  # type: ignore[misc] # the package has no types
    """Resolves names of methods and fields as well, which the descriptor pool does not map to files."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        holder, _, member = fully_qualified_name.rpartition(".")
        known = member in _members(holder)
        return super()._file_containing_symbol(request, holder if known else fully_qualified_name)


def _members(name: str) -> Iterable[str]:
    """Returns the method names of a service, or the field names of a message."""
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(name).methods_by_name
    except KeyError:
        pass
    try:
        return pool.FindMessageTypeByName(name).fields_by_name
    except KeyError:
        return ()


def _know_v1() -> None:
    """Adds the v1 file to the descriptor pool; the package contains only v1alpha."""
    pool = descriptor_pool.Default()
    old = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(old)
    text = text_format.MessageToString(old).replace("v1alpha", "v1")
    new = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    try:
        pool.FindFileByName(new.name)
    except KeyError:
        pool.AddSerializedFile(new.SerializeToString())
