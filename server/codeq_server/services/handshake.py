"""The versions that a stream's first messages exchange, and the log event of an opened stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Final

import structlog
from codeq.v1 import producer_service_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core.ids import Route

from .auditing import written_origin

PROTOCOL: Final = 1
"""Version of the stream protocol that this server speaks."""
SERVER_VERSION: Final = version("codeq-server")
"""Version of the server."""

_log = structlog.get_logger()


def place_of(route: Route | None) -> tuple[int, int]:
    """Returns the index of a process's shard, and the number of shards, as a welcome names them."""
    return (0, 1) if route is None else (route.shard, route.count)


def opening(call: str, claims: Claims, name: str, client: pb.ClientInfo, peer: str) -> Callable[[], None]:
    """Returns what logs that a stream was opened; it does not keep the message with the hello in memory.

    Args:
        call: Name of the RPC.
        claims: The caller's claims.
        name: Name that the client gives itself; may be empty.
        client: SDK of the client; empty if it did not name one.
        peer: Address of the client in gRPC's form.
    """
    return partial(
        _log.info,
        "stream_opened",
        call=call,
        tenant=claims.tenant_id,
        subject=claims.subject,
        name=name,
        sdk=client.sdk,
        version=client.version,
        protocol=client.protocol,
        origin=written_origin(peer),
    )
