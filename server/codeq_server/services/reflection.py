"""gRPC reflection, as clients ask for it today (v1) and as older ones do (v1alpha): the messages are the same bytes."""

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
    """Adds reflection in both versions to a server, which tells these services and itself."""
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
    """Finds methods and fields, too, of which the pool does not know the file."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        holder, _, member = fully_qualified_name.rpartition(".")
        known = member in _members(holder)
        return super()._file_containing_symbol(request, holder if known else fully_qualified_name)


def _members(name: str) -> Iterable[str]:
    """Returns the methods of a service, or the fields of a message, of this name."""
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
    """Makes the pool know the file of v1, of which the package has the older version only."""
    pool = descriptor_pool.Default()
    old = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(old)
    text = text_format.MessageToString(old).replace("v1alpha", "v1")
    new = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    try:
        pool.FindFileByName(new.name)
    except KeyError:
        pool.AddSerializedFile(new.SerializeToString())
