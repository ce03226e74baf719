"""gRPC listeners: limits and keepalive of connections, and checks of ports before opening them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import grpc.aio
import structlog

from codeq_server.config import Address, is_loopback

_log = structlog.get_logger()

FRAME_BYTES_MAX: Final = 9 * 1024 * 1024
"""Maximum size of a gRPC message, the largest frame plus overhead; a larger one fails with RESOURCE_EXHAUSTED."""

METADATA_BYTES_MAX: Final = 16 * 1024
"""Maximum bytes of a call's metadata, counting 32 extra per key; a call with more fails with RESOURCE_EXHAUSTED."""

STREAMS_PER_CONNECTION_MAX: Final = 1000
"""Maximum open calls of one connection; further ones wait in the client."""

CALLS_MAX: Final = 8_192
"""Maximum concurrent gRPC calls, including streams; further ones fail with RESOURCE_EXHAUSTED."""

_KEEPALIVE_MS: Final = 30_000
_KEEPALIVE_ANSWER_MS: Final = 10_000
_PING_INTERVAL_MS_MIN: Final = 5_000
"""Pings at shorter intervals close the connection; clients may ping every 10 s."""

HANDSHAKE_SECONDS: Final = 5
"""Time for a new connection to complete the HTTP/2 handshake."""

IDLE_SECONDS: Final = 75
"""Idle time after which a connection is closed; its client opens a new one for its next call."""

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    # Two servers never share a port: the second one fails to start.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # As over HTTP, no decompression: a call uses no more memory than was sent.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    # By default gRPC cancels calls at random if more than 1000 arrive at once, as when thousands of workers reconnect.
    ("grpc.server.max_pending_requests", CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", CALLS_MAX),
    # Detects a peer that vanished silently within 40 s, even while its streams are idle.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MS),
    # Timeout of any ping, including keepalive; the default is 60 s.
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_ANSWER_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MS_MIN),
)
"""Limits and keepalive of gRPC listeners."""


def new_server(connections_max: int) -> grpc.aio.Server:
    """Returns a gRPC server for clients without ports; each port allows up to `connections_max` connections."""
    options = [*_OPTIONS, ("grpc.max_allowed_incoming_connections", connections_max)]
    return grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_MAX)


class ListenError(Exception):
    """A port cannot be opened; the text says which and why."""


def refuse_taken(wanted: Mapping[str, Address | None]) -> None:
    """Checks that the server can listen on every address, and reports all that fail at once.

    Args:
        wanted: Address of each listener by the variable that sets it; None: no listener.

    Raises:
        ListenError: Ports are in use, or hosts are not local.
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


def listen(server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials | None = None) -> int:
    """Makes a server that is not started yet listen on an address; returns the port.

    `credentials` turn TLS on.

    Raises:
        ListenError: The port is in use, or the host is not local.
    """
    try:
        _probe(address)
        where = str(Address(address.host or "::", address.port))
        return server.add_insecure_port(where) if credentials is None else server.add_secure_port(where, credentials)
    except (OSError, RuntimeError) as error:
        raise ListenError(f"cannot listen on {address}: {_reason(error)}") from None


def warn_plaintext(listeners: Mapping[str, Address | None]) -> None:
    """Warns of listeners without TLS that other machines can reach, all in one line.

    Args:
        listeners: Addresses of the listeners without TLS, by name; None: no such listener.
    """
    exposed = [f"{name} {a}" for name, a in listeners.items() if a is not None and not is_loopback(a.host)]
    if exposed:
        _log.warning(
            "plaintext_listener",
            listeners=", ".join(exposed),
            hint="tokens and payloads can be read on the wire; set TLS_CERT_FILE and TLS_KEY_FILE, between members "
            "RAFT_TLS_CERT, RAFT_TLS_KEY and RAFT_TLS_CA, or let a proxy terminate TLS",
        )


def _reason(error: Exception) -> str:
    """Returns why an address cannot be bound, without the address itself, which Python's message repeats."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)


def _probe(address: Address) -> None:
    """Raises the OSError that prevents opening a port, which gRPC does not report."""
    if address.host:
        family, *_, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        socket.create_server(target[:2], family=family).close()
    elif socket.has_dualstack_ipv6():
        socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True).close()
    else:
        socket.create_server(("", address.port)).close()
