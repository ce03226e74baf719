"""Determines who may call which RPC, from the option codeq.options.v1.access in the descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from codeq.options.v1 import options_pb2

# Imported to register their methods in the descriptor pool.
from codeq.v1 import (
    cluster_service_pb2,  # noqa: F401
    producer_service_pb2,  # noqa: F401
    queue_service_pb2,  # noqa: F401
    server_service_pb2,  # noqa: F401
    task_service_pb2,  # noqa: F401
    worker_service_pb2,  # noqa: F401
)
from google.protobuf import descriptor_pool


@dataclass(frozen=True, slots=True)
class Access:
    """Requirements of an RPC on its caller.

    Attributes:
        principal: Number of the codeq.options.v1.Principal.
        scope: Scope that the token must carry; empty: none.
    """

    principal: int
    scope: str


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
    return Access(principal=option.principal, scope=option.scope)
