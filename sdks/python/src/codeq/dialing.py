"""Connects to servers: addresses, name resolution, TLS, and closing inherited sockets in a forked child."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from codeq.errors import DeadlineExceeded, NotSent
from codeq.tls import ContextSource, check_alpn

CONNECT_SECONDS_MAX: Final = 3.0
"""Timeout for connecting to one address of a server."""

_UNIX: Final = "unix:"
_is_digits = re.compile("[0-9]{1,5}").fullmatch

_Value = TypeVar("_Value")

_sockets: Final[weakref.WeakSet[socket.socket]] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed server address.

    Attributes:
        host: Host name, IP address, or path of a Unix socket.
        port: Port; None: the host is a path.
        authority: Value of the :authority header.
    """

    host: str
    port: int | None
    authority: str

    @classmethod
    def parse(cls, address: str) -> Self:
        """Parses HOST:PORT, [IPV6]:PORT or unix:PATH.

        Raises:
            ValueError: The address is none of these.
        """
        if address.startswith(_UNIX):
            return cls(address.removeprefix(_UNIX), None, "localhost")
        host, colon, port = address.removeprefix("dns:///").rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        is_host = bare and "/" not in bare and (bare != host or ":" not in bare)
        if not colon or not is_host or not _is_digits(port) or not 0 < int(port) < 1 << 16:
            raise ValueError(f"address {address!r} is not HOST:PORT, such as localhost:9092 or [::1]:9092")
        return cls(bare, int(port), f"{host}:{port}")


def aside(function: Callable[[], _Value]) -> Future[_Value]:
    """Runs a function that may block, on a daemon thread of its own, and returns its future.

    During interpreter shutdown, when no thread can start, the function runs on the calling thread.
    """
    future: Future[_Value] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(function))
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="codeq-aside", daemon=True).start()
    except RuntimeError:
        run()
    return future


def dial(target: Target, source: ContextSource | None, deadline: float) -> socket.socket:
    """Connects a blocking socket.

    Args:
        target: The server.
        source: Of contexts for TLS; None: plaintext.
        deadline: Time on the monotonic clock by which to connect.

    Raises:
        NotSent: The connection failed.
        DeadlineExceeded: The name was not resolved by the deadline.
    """
    context = None if source is None else source()
    trouble: Exception = OSError("it has no address")
    for family, address in _known(target) or _waited(aside(lambda: _resolve(target)), deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            sock = _open(family)
        except OSError as error:  # no file descriptor left, or no such family here, as where IPv6 is switched off
            trouble = error
            continue
        try:
            sock.settimeout(min(left, CONNECT_SECONDS_MAX))
            sock.connect(address)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname=target.host)
                _sockets.add(sock)
                check_alpn(sock.selected_alpn_protocol())
        except OSError as error:
            sock.close()
            trouble = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise _no_connection(target, trouble)


async def dial_async(
    target: Target, source: ContextSource | None, make: Callable[[], asyncio.Protocol]
) -> tuple[asyncio.Transport, Any]:
    """Connects on the running loop; returns transport and protocol. The caller sets the timeout.

    Raises:
        NotSent: The connection failed.
    """
    loop = asyncio.get_running_loop()
    context = None if source is None else await asyncio.wrap_future(aside(source))
    trouble: Exception = OSError("it has no address")
    for family, address in _known(target) or await _resolved(target):
        try:
            sock = _open(family)
        except OSError as error:  # as in `dial`
            trouble = error
            continue
        try:
            sock.setblocking(False)  # noqa: FBT003 - socket's own
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await loop.sock_connect(sock, address)
                name = target.host if context is not None else None
                transport, protocol = await loop.create_connection(make, sock=sock, ssl=context, server_hostname=name)
            if context is not None:
                try:
                    check_alpn(transport.get_extra_info("ssl_object").selected_alpn_protocol())
                except ssl.SSLError:
                    transport.abort()
                    raise
        except (OSError, TimeoutError) as error:
            sock.close()
            trouble = error
        except BaseException:
            sock.close()
            raise
        else:
            return transport, protocol
    raise _no_connection(target, trouble)


def _open(family: int) -> socket.socket:
    """Opens a socket that a forked child closes."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    _sockets.add(sock)
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _known(target: Target) -> list[tuple[int, Any]]:
    """Returns the address of a target that needs no name resolution; empty: its name must be resolved."""
    if target.port is None:
        return [(socket.AF_UNIX, target.host)]
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, target.host)
            return [(family, (target.host, target.port))]
    return []


def _resolve(target: Target) -> list[tuple[int, Any]]:
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


async def _resolved(target: Target) -> list[tuple[int, Any]]:
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            return await asyncio.wrap_future(aside(lambda: _resolve(target)))
    except (OSError, UnicodeError) as error:
        raise _no_connection(target, error) from None


def _waited(future: Future[list[tuple[int, Any]]], deadline: float) -> list[tuple[int, Any]]:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise DeadlineExceeded("the server's name was not resolved in time") from None
    except (OSError, UnicodeError) as error:
        raise NotSent(f"the server's name cannot be resolved: {error}") from None


def _no_connection(target: Target, error: Exception) -> NotSent:
    text = str(error) or type(error).__name__
    return NotSent(f"cannot connect to {target.authority if target.port else target.host}: {text}")


def _close_in_child() -> None:
    """Closes the child's copies of the parent's sockets after a fork, without sending anything.

    A connection then ends when the parent closes it, not when the last child exits.
    """
    for sock in list(_sockets):
        with contextlib.suppress(OSError):
            os.close(sock.detach())


os.register_at_fork(after_in_child=_close_in_child)
