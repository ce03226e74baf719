"""Reads a server's service descriptors by gRPC reflection.

A standalone gateway builds its routes from them, so it offers exactly its server's calls and fields, whatever the
server's version.
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
"""File with the messages of call streams; its service is not listed by reflection, so the file is requested by name."""

ANSWER_SECONDS: Final = 10.0
"""Time for a server to answer all reflection requests."""

_OF_GRPC: Final = "grpc."
"""Name prefix of gRPC's own services."""


class SchemaError(Exception):
    """The server does not describe its services, or does not support call streams."""


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
    """Returns the schema of the server at the other end of a channel.

    Raises:
        grpc.aio.AioRpcError: The server cannot be reached, or did not answer in time.
        SchemaError: The server did not describe everything.
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
    """Returns the answer to a request; the server answers requests in order."""
    await talk.write(request)
    answer = await talk.read()
    if answer is grpc.aio.EOF or answer.HasField("error_response"):
        asked = request.file_containing_symbol or request.file_by_filename or "its services"
        raise SchemaError(f"the server does not describe {asked}; is it a codeq server of this or a later version?")
    return answer


def _add(pool: descriptor_pool.DescriptorPool, files: dict[str, bytes]) -> None:
    """Adds files to a pool, dependencies first."""
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
