"""How gRPC listeners bound and watch their connections, and why one of them cannot be opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import grpc.aio

from codeq_server.config import Address

FRAME_BYTES_MAX: Final = 9 * 1024 * 1024
"""A larger gRPC message ends its call with RESOURCE_EXHAUSTED: the largest frame, and room for what is around it."""

METADATA_BYTES_MAX: Final = 16 * 1024
"""Bytes of a call's metadata, 32 for each key besides; a call with more fails with RESOURCE_EXHAUSTED."""

STREAMS_PER_CONNECTION_MAX: Final = 1000
"""Calls that one connection may have open; further ones wait in the client."""

CALLS_MAX: Final = 8_192
"""gRPC calls that are served at a time, streams included; further ones fail with RESOURCE_EXHAUSTED."""

_KEEPALIVE_MS: Final = 30_000
_KEEPALIVE_ANSWER_MS: Final = 10_000
_PING_INTERVAL_MS_MIN: Final = 5_000
"""Pings that come sooner than this one after another end a connection; clients may ping every 10 s."""

HANDSHAKE_SECONDS: Final = 5
"""Time from a connection's begin until it has said that it speaks HTTP/2."""

IDLE_SECONDS: Final = 75
"""Time that a connection may be without a call; its client then opens another one for the next call."""

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    # Two servers never share a port: the second one fails to start.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # As over HTTP: nothing is unpacked, so what a call takes is what was sent.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    # By itself gRPC cancels calls at random when more than 1000 come at once: thousands of workers that reconnect do.
    ("grpc.server.max_pending_requests", CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", CALLS_MAX),
    # A peer that vanished without a word is noticed after 40 s, also while its streams are silent.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MS),
    # The time for an answer to any ping, those of keepalive too; 60 s by itself.
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_ANSWER_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MS_MIN),
)
"""How gRPC listeners bound and watch their connections."""


def new_server(connections_max: int) -> grpc.aio.Server:
    """Returns a gRPC server for clients, which listens nowhere yet; each of its ports may have so many connections."""
    options = [*_OPTIONS, ("grpc.max_allowed_incoming_connections", connections_max)]
    return grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_MAX)


class ListenError(Exception):
    """A port cannot be opened; the text says which and why."""


def refuse_taken(wanted: Mapping[str, Address | None]) -> None:
    """Checks that every address can be listened on, so that a start that cannot succeed says all that is in its way.

    Args:
        wanted: Address of each listener by the variable that sets it; None: no listener.

    Raises:
        ListenError: Ports are taken, or hosts are not of this machine.
    """
    problems = []
    for variable, address in wanted.items():
        if address is not None:
            try:
                _probe(address)
            except OSError as error:
                problems.append(f"{address} ({variable}: {_reason(error)})")
    if problems:
        raise ListenError(f"cannot listen on {', '.join(problems)}")


def listen(server: grpc.aio.Server, address: Address) -> int:
    """Lets a server that is not started yet listen on an address, and returns the port.

    Raises:
        ListenError: The port is taken, or the host is not one of this machine.
    """
    try:
        _probe(address)
        return server.add_insecure_port(str(Address(address.host or "::", address.port)))
    except (OSError, RuntimeError) as error:
        raise ListenError(f"cannot listen on {address}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Returns why an address cannot be bound, without the address, which Python's text repeats."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)


def _probe(address: Address) -> None:
    """Raises the OSError for which a port cannot be opened: gRPC does not tell it."""
    if address.host:
        family, *_, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        socket.create_server(target[:2], family=family).close()
    elif socket.has_dualstack_ipv6():
        socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True).close()
    else:
        socket.create_server(("", address.port)).close()
