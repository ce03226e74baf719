"""The address of a caller as text, for the audit trail."""

from __future__ import annotations

from typing import Any, Final

_MAPPED: Final = "::ffff:"
"""Prefix of an IPv4 address on a socket for both versions."""


def written(host: str, port: int | str) -> str:
    """Returns an address as host:port, with an IPv6 host in brackets."""
    if host.startswith(_MAPPED) and "." in host:
        host = host.removeprefix(_MAPPED)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def of_socket(peer: Any) -> str:
    """Returns the address of a socket's peer; empty if it has none, because it is gone or no network socket."""
    return written(peer[0], peer[1]) if isinstance(peer, tuple) and len(peer) >= 2 else ""
