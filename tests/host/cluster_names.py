"""The names of a Kubernetes cluster, answered over DNS as CoreDNS does: addresses that come and go with their pods."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Self

HEADER = struct.Struct("!6H")
RESPONSE, RECURSION, NXDOMAIN = 0x8000, 0x0080, 3
TYPE_A, CLASS_IN = 1, 1
TTL_SECONDS = 5
"""As that of CoreDNS."""
LOOK_SECONDS = 0.2
PACKET_BYTES_MAX = 4096
TO_ITSELF = b"\xc0\x0c"
"""The question's name, by reference."""

Find = Callable[[str], Sequence[str] | None]
"""Returns the addresses of a name, in any order; None: there is no such name."""


class NameServer:
    """A server for IPv4 addresses at port 53 of an address of this machine."""

    def __init__(self, host: str, find: Find) -> None:
        self._find = find
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, 53))
        except OSError:
            self._socket.close()
            raise
        self._socket.settimeout(LOOK_SECONDS)
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                query, sender = self._socket.recvfrom(PACKET_BYTES_MAX)
                self._socket.sendto(answer(query, self._find), sender)


def answer(query: bytes, find: Find) -> bytes:
    """Returns the reply to a query with one question."""
    number, flags, *_ = HEADER.unpack_from(query)
    labels, at = [], HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    question = query[HEADER.size : at + 5]
    kind, _ = struct.unpack_from("!2H", query, at + 1)
    found = find(".".join(labels).lower())
    addresses = found or [] if kind == TYPE_A else []
    code = NXDOMAIN if found is None else 0
    reply = HEADER.pack(number, RESPONSE | RECURSION | (flags & 0x0100) | code, 1, len(addresses), 0, 0) + question
    for address in addresses:
        record = struct.pack("!2HIH", TYPE_A, CLASS_IN, TTL_SECONDS, 4)
        reply += TO_ITSELF + record + ipaddress.IPv4Address(address).packed
    return reply
