"""Determines who may call which RPC, from the option codeq.options.v1.access in the descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from codeq.options.v1 import options_pb2
from codeq.v1 import (
    audit_service_pb2,
    cluster_service_pb2,
    producer_service_pb2,
    queue_service_pb2,
    schedule_service_pb2,
    server_service_pb2,
    subscription_service_pb2,
    task_service_pb2,
    tenant_service_pb2,
    topic_service_pb2,
    webhook_service_pb2,
    worker_service_pb2,
)
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

SERVICE_FILES: Final = (
    task_service_pb2,
    producer_service_pb2,
    worker_service_pb2,
    queue_service_pb2,
    tenant_service_pb2,
    topic_service_pb2,
    audit_service_pb2,
    schedule_service_pb2,
    subscription_service_pb2,
    webhook_service_pb2,
    cluster_service_pb2,
    server_service_pb2,
)
"""The protos of all public services."""

METHODS: Final[tuple[MethodDescriptor, ...]] = tuple(
    method
    for file in SERVICE_FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""Every public RPC."""


@dataclass(frozen=True, slots=True)
class Access:
    """Requirements of an RPC on its caller.

    Attributes:
        principal: Number of the codeq.options.v1.Principal.
        scope: Scope that the token must carry; empty: none.
        content: Whether the response is nothing but content of a task.
    """

    principal: int
    scope: str
    content: bool = False


@cache  # bounded by the number of RPCs: unknown names raise
def access_of(method_full_name: str) -> Access:
    """Returns who may call an RPC.

    Args:
        method_full_name: Name as in gRPC's paths, such as "/codeq.v1.TaskService/CreateTask".

    Raises:
        LookupError: No such RPC exists, or the RPC names no principal.
    """
    name = method_full_name.removeprefix("/").replace("/", ".")
    try:
        method = descriptor_pool.Default().FindMethodByName(name)
    except KeyError:
        raise LookupError(f"no such RPC: {method_full_name}") from None
    extensions: Any = method.GetOptions().Extensions  # the stubs do not accept a descriptor as key
    option = extensions[options_pb2.access]
    if option.principal == options_pb2.PRINCIPAL_UNSPECIFIED:
        raise LookupError(f"the RPC names no principal: {method_full_name}")
    return Access(principal=option.principal, scope=option.scope, content=option.content)
