"""Connections between nodes: where this node listens, who may connect, and how soon a dead peer is noticed."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import grpc
import grpc.aio

from .routes import Route

FRAME_BYTES_MAX: Final = 130 << 20
"""Maximum bytes of a gRPC message; a larger one ends its call. The largest Raft message, a shard's batch, fits."""

CALLS_MAX: Final = 256
"""Maximum number of concurrent calls from other nodes; further calls fail with RESOURCE_EXHAUSTED."""

CONNECTIONS_MAX: Final = 64
"""Default limit on connections from other nodes."""

HANDSHAKE_SECONDS: Final = 5
"""Timeout for a new connection to complete the TLS handshake and show that it speaks HTTP/2."""

IDLE_SECONDS: Final = 60
"""Maximum time that a connection may be without a call."""

KEEPALIVE_MS: Final = 2_000
"""Interval between pings of a connection, and timeout of the answer; a vanished peer is noticed after both have
passed."""

SECRET_KEY: Final = "codeq-cluster-secret-bin"  # noqa: S105
"""Metadata key that carries the cluster secret."""

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

_SERVER_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    *_OPTIONS,
    # Two servers never share a port: the second one fails to start.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", CALLS_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 4),
)

_CLIENT_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    *_OPTIONS,
    # Every channel reconnects at once, without the backoff that gRPC remembers from earlier failures.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class TransportError(Exception):
    """The transport cannot start; the text says which setting is wrong and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for mutual TLS. They are read at startup; see also `Credentials.renew`.

    Attributes:
        certificate: Certificate of this node, with the intermediate certificates up to the authority. It must be valid
            for the host under which other nodes list this one in their address books.
        key: Key of the certificate.
        authority: Certificates of the authorities; anyone with a certificate from one of them may connect.
    """

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How nodes reach each other.

    Attributes:
        host: Name or IP address to listen on, without brackets; empty: all interfaces.
        port: Port to listen on; 0: any free one.
        incoming: Folder for the files of incoming snapshots, used only by the transport; created if missing.
        secret: Secret that every caller must present; empty: anyone may call.
        tls: Files for mutual TLS; None: connections are not encrypted, and the secret travels in the clear.
        reserve_bytes: Free space on the disk of `incoming` that snapshots must leave.
        connections_max: Maximum number of open connections from other nodes; further connections are closed at once.
        route: The group at the other nodes, if each has several; None: each has one group.
    """

    host: str
    port: int
    incoming: Path
    secret: str = field(default="", repr=False)
    tls: TlsFiles | None = None
    reserve_bytes: int = 0
    connections_max: int = CONNECTIONS_MAX
    route: Route | None = None


class Credentials:
    """Proves this node's identity to other nodes, and checks theirs.

    Args:
        secret: Cluster secret; empty: no secret is required.
        tls: Files for mutual TLS, if any.
        route: The group at the other nodes; None: each has one group.

    Raises:
        TransportError: A file cannot be read or is invalid.
    """

    def __init__(self, secret: str, tls: TlsFiles | None, route: Route | None = None) -> None:
        self._route = route
        self._secret = _digest(secret.encode())
        self._asks_secret = bool(secret)
        self.metadata: tuple[tuple[str, bytes], ...] = ((SECRET_KEY, secret.encode()),) if secret else ()
        self._pair: grpc.ServerCertificateConfiguration | None = None
        self._client: grpc.ChannelCredentials | None = None
        if tls is not None:
            self.renew(*_read(tls))

    def renew(self, authority: bytes, key: bytes, certificate: bytes) -> None:
        """Uses other certificates, which have proved usable, for all connections that are opened from now on."""
        self._pair = grpc.ssl_server_certificate_configuration([(key, certificate)], authority)
        self._client = grpc.ssl_channel_credentials(authority, key, certificate)

    def admits(self, metadata: Sequence[tuple[str, str | bytes]]) -> bool:
        """Returns whether the metadata of a call carries the secret."""
        if not self._asks_secret:
            return True
        given = [value for key, value in metadata if key == SECRET_KEY]
        value = given[0] if len(given) == 1 else b""
        # Digests have equal lengths, so the time that the comparison takes reveals nothing.
        return hmac.compare_digest(_digest(value if isinstance(value, bytes) else value.encode()), self._secret)

    def open_channel(self, address: str) -> grpc.aio.Channel:
        """Returns a channel with its own connection to an address, host:port."""
        options: list[tuple[str, Any]] = [*_CLIENT_OPTIONS]
        if self._route is None:
            # Nodes talk to each other directly, regardless of proxies in the environment.
            options.append(("grpc.enable_http_proxy", 0))
        else:
            address, way = self._route.to(address)
            options += way
        if self._client is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self._client, options=options)

    def listen(self, server: grpc.aio.Server, host: str, port: int) -> int:
        """Binds a server that has not been started to a port, and returns the port.

        Raises:
            TransportError: The port is taken, or the host is not an address of this machine.
        """
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            _probe(host, port)
            address = shown if host else f"[::]:{port}"
            if self._pair is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._server_credentials(self._pair))
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise TransportError(f"cannot listen on {shown} for other nodes: {reason or error}") from None

    def _server_credentials(self, current: grpc.ServerCertificateConfiguration) -> grpc.ServerCredentials:
        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC's threads for each connection; None: unchanged."""
            nonlocal current
            if self._pair is None or self._pair is current:
                return None
            current = self._pair
            return current

        # The stubs of gRPC do not know None.
        return grpc.dynamic_ssl_server_credentials(current, cast("Any", fetch), require_client_authentication=True)


def new_server(interceptors: Sequence[grpc.aio.ServerInterceptor], connections_max: int) -> grpc.aio.Server:
    """Returns a gRPC server for other nodes that does not listen yet."""
    options = [*_SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", connections_max)]
    return grpc.aio.server(interceptors=list[Any](interceptors), options=options, maximum_concurrent_rpcs=CALLS_MAX)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _read(tls: TlsFiles) -> tuple[bytes, bytes, bytes]:
    """Returns the contents of authority, key and certificate, after checking that they can be used together."""
    contents = []
    for path in (tls.authority, tls.key, tls.certificate):
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise TransportError(f"cannot read {path}: {error.strerror}") from None
    check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Never ask for a password: the empty password fails at once.
        check.load_cert_chain(tls.certificate, tls.key, password="")
    except ssl.SSLError as error:
        reason = error.reason or error
        raise TransportError(f"{tls.certificate} and {tls.key} are not a certificate and its key: {reason}") from None
    try:
        check.load_verify_locations(tls.authority)
    except ssl.SSLError as error:
        raise TransportError(f"{tls.authority} contains no certificate: {error.reason or error}") from None
    authority, key, certificate = contents
    return authority, key, certificate


def _probe(host: str, port: int) -> None:
    """Raises the OSError that prevents opening a port, because gRPC does not report it."""
    if host:
        family, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(target[:2], family=family).close()
    elif socket.has_dualstack_ipv6():
        socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True).close()
    else:
        socket.create_server(("", port)).close()
