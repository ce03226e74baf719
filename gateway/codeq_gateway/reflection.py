"""What a server serves, asked of the server itself: its services' descriptors by gRPC reflection.

A gateway in a process of its own builds its routes from them, so it has the fields and calls of its server, whatever
version that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

CALL_FILE: Final = "codeq_internal/v1/call.proto"
"""File of the messages of call streams: its service is not listed, and found by this name."""

ANSWER_SECONDS: Final = 10.0
"""Time that a server has to tell everything."""

_OF_GRPC: Final = "grpc."
"""Start of the names of services that gRPC itself brings."""


class SchemaError(Exception):
    """The server does not tell what it serves, or is none that takes call streams."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Descriptors of a server.

    Attributes:
        pool: Holds the messages of its services and of call streams.
        services: Its services, in the order of their names.
    """

    pool: descriptor_pool.DescriptorPool
    services: tuple[ServiceDescriptor, ...]


async def read_schema(channel: grpc.aio.Channel) -> Schema:
    """Returns what the server at the other end of a channel serves.

    Raises:
        grpc.aio.AioRpcError: It cannot be reached, or did not answer in time.
        SchemaError: It did not tell everything.
    """
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    talk = stub.ServerReflectionInfo(timeout=ANSWER_SECONDS)
    listed = await _ask(talk, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = [found.name for found in listed.list_services_response.service if not found.name.startswith(_OF_GRPC)]
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    asked.append(reflection_pb2.ServerReflectionRequest(file_by_filename=CALL_FILE))
    files: dict[str, bytes] = {}
    for request in asked:
        answer = await _ask(talk, request)
        for content in answer.file_descriptor_response.file_descriptor_proto:
            files[descriptor_pb2.FileDescriptorProto.FromString(content).name] = content
    await talk.done_writing()
    talk.cancel()
    pool = descriptor_pool.DescriptorPool()
    _add(pool, files)
    return Schema(pool, tuple(pool.FindServiceByName(name) for name in sorted(names)))


async def _ask(talk: Any, request: reflection_pb2.ServerReflectionRequest) -> Any:
    """Returns the answer to a request; the server answers one after the other."""
    await talk.write(request)
    answer = await talk.read()
    if answer is grpc.aio.EOF or answer.HasField("error_response"):
        asked = request.file_containing_symbol or request.file_by_filename or "its services"
        raise SchemaError(f"the server does not describe {asked}; is it a codeq server of this or a later version?")
    return answer


def _add(pool: descriptor_pool.DescriptorPool, files: dict[str, bytes]) -> None:
    """Adds files to a pool, those that others need first."""
    done: set[str] = set()

    def add(names: Iterable[str]) -> None:
        for name in names:
            if name in done:
                continue
            done.add(name)
            if name not in files:
                raise SchemaError(f"the server does not describe {name}")
            add(descriptor_pb2.FileDescriptorProto.FromString(files[name]).dependency)
            pool.AddSerializedFile(files[name])

    add(sorted(files))
