"""gRPC listeners: limits and keepalive of connections, and checks of ports before opening them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

import grpc.aio
import structlog

from codeq_server.config import Address, ProcessSettings, RestSettings, Settings, is_loopback

_log = structlog.get_logger()

FRAME_BYTES_MAX: Final = 9 * 1024 * 1024
"""Maximum size of a gRPC message, the largest frame plus overhead; a larger one fails with RESOURCE_EXHAUSTED."""

METADATA_BYTES_MAX: Final = 16 * 1024
"""Maximum bytes of a call's metadata, counting 32 extra per key; a call with more fails with RESOURCE_EXHAUSTED."""

STREAMS_PER_CONNECTION_MAX: Final = 1000
"""Maximum open calls of one connection; further ones wait in the client."""

CALLS_MAX: Final = 8_192
"""Maximum concurrent gRPC calls, including streams, for each process of the server; further ones fail with
RESOURCE_EXHAUSTED."""

_KEEPALIVE_MS: Final = 30_000
_KEEPALIVE_ANSWER_MS: Final = 10_000
_PING_INTERVAL_MS_MIN: Final = 5_000
"""Pings at shorter intervals close the connection; clients may ping every 10 s."""

HANDSHAKE_SECONDS: Final = 5
"""Time for a new connection to complete the HTTP/2 handshake."""

IDLE_SECONDS: Final = 75
"""Idle time after which a connection is closed; its client opens a new one for its next call."""

STREAMS: Final = frozenset({"WORKER_STREAM_ADDR", "PRODUCER_STREAM_ADDR"})
"""Variables of the gRPC listeners for clients, which are one listener if they name the same address."""

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # As over HTTP, no decompression: a call uses no more memory than was sent.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
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


def new_server(connections_max: int, *, processes: int = 1) -> grpc.aio.Server:
    """Returns a gRPC server for clients without ports.

    Args:
        connections_max: Maximum number of connections to each port.
        processes: Number of processes of this server, which listen on the same ports and pass calls on to each other.
            Two servers never share a port: the second one fails to start.
    """
    calls_max = CALLS_MAX * processes
    options = [
        *_OPTIONS,
        ("grpc.max_allowed_incoming_connections", connections_max),
        ("grpc.so_reuseport", int(processes > 1)),
        # By default gRPC cancels calls at random if more than 1000 arrive at once, as when thousands of workers
        # reconnect.
        ("grpc.server.max_pending_requests", calls_max),
        ("grpc.server.max_pending_requests_hard_limit", calls_max),
    ]
    return grpc.aio.server(options=options, maximum_concurrent_rpcs=calls_max)


class ListenError(Exception):
    """A port cannot be opened; the text says which and why."""


def listeners_of(settings: ProcessSettings, *, rest: bool) -> dict[str, Address]:
    """Returns the addresses that a process listens on, by the variable that sets each.

    Args:
        settings: Settings of the process.
        rest: Whether it serves REST.
    """
    found: dict[str, Address | None] = {}
    if rest and isinstance(settings, RestSettings):
        found["PORT"] = Address(settings.http.host, settings.http.port)
    if isinstance(settings, Settings):
        found["WORKER_STREAM_ADDR"] = settings.worker_stream_addr
        found["PRODUCER_STREAM_ADDR"] = settings.producer_stream_addr
        found["CLUSTER_GRPC_ADDR"] = None if settings.cluster is None else settings.cluster.grpc_addr
        found["RAFT_BIND_ADDR"] = None if settings.raft is None else settings.raft.bind_addr
        if settings.codeq_pprof:
            for shard, address in enumerate(settings.pprof_addrs):
                found[f"CODEQ_PPROF_ADDR of shard {shard}" if shard else "CODEQ_PPROF_ADDR"] = address
    return {name: address for name, address in found.items() if address is not None}


def conflicts(wanted: Mapping[str, Address | None]) -> Iterator[tuple[str, str]]:
    """Yields the variables of each two listeners that cannot listen at the same time.

    Args:
        wanted: Address of each listener by the variable that sets it; None: no listener.
    """
    addresses = [(name, address) for name, address in wanted.items() if address is not None and address.port]
    for (first, one), (second, other) in combinations(addresses, 2):
        is_one_listener = one == other and {first, second} == STREAMS
        if one.port == other.port and not is_one_listener and _overlap(one.host, other.host):
            yield first, second


def _overlap(one: str, other: str) -> bool:
    """Returns whether two hosts have an IP address in common."""
    ours, theirs = _places(one), _places(other)
    for mine, others in ((ours, theirs), (theirs, ours)):
        if "::" in mine or ("0.0.0.0" in mine and any(":" not in each for each in others)):  # noqa: S104 - compared
            return True
    return not ours.isdisjoint(theirs)


def _places(host: str) -> frozenset[str]:
    """Returns the IP addresses of a host; "::" stands for those of both families, to which gRPC binds it."""
    if not host:
        return frozenset({"::"})
    if host == "localhost":  # the resolver may know only one of them
        return frozenset({"127.0.0.1", "::1"})
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset({host})
    return frozenset(str(target[0]).removeprefix("::ffff:") for *_, target in found)


def refuse_taken(wanted: Mapping[str, Address | None]) -> None:
    """Checks that the server can listen on every address, and reports all that fail at once.

    Args:
        wanted: Address of each listener by the variable that sets it; None: no listener.

    Raises:
        ListenError: Ports are in use, several listeners name the same one, or hosts are not local.
    """
    problems = [f"{wanted[second]} ({second}: {first} has the same port)" for first, second in conflicts(wanted)]
    for variable, address in wanted.items():
        if address is not None:
            try:
                _probe(address)
            except OSError as error:
                problems.append(f"{address} ({variable}: {_reason(error)})")
    if problems:
        raise ListenError(f"cannot listen on {', '.join(problems)}")


def listen(
    server: grpc.aio.Server,
    address: Address,
    credentials: grpc.ServerCredentials | None = None,
    *,
    shared: bool = False,
) -> int:
    """Makes a server that is not started yet listen on an address; returns the port.

    Args:
        server: The server.
        address: The address.
        credentials: Turn TLS on.
        shared: As for `new_server`.

    Raises:
        ListenError: The port is in use, or the host is not local.
    """
    try:
        if not shared:
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


def reserve(address: Address) -> socket.socket:
    """Returns a socket that keeps a port for processes that share it; it does not listen itself.

    Raises:
        ListenError: The port is in use, or the host is not local.
    """
    family, target = _target(address)
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address.host)))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(target)
    except OSError as error:
        held.close()
        raise ListenError(f"cannot listen on {address}: {_reason(error)}") from None
    return held


def bound(address: Address) -> socket.socket:
    """Returns a socket that listens on an address.

    Raises:
        ListenError: The port is in use, or the host is not local.
    """
    try:
        return _listening(address)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {_reason(error)}") from None


def _probe(address: Address) -> None:
    """Raises the OSError that prevents opening a port, which gRPC does not report."""
    _listening(address).close()


def _listening(address: Address) -> socket.socket:
    family, target = _target(address)
    dual = family == socket.AF_INET6 and not address.host
    return socket.create_server(target, family=family, dualstack_ipv6=dual)


def _target(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Returns what to bind for an address; without a host, all interfaces."""
    if address.host:
        family, *_, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        return family, (str(target[0]), address.port)
    return socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET, ("", address.port)
