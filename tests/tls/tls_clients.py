"""Clients of servers with TLS, and what they see of its certificates."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509
from server_process import ServerProcess

QUICK: Final = (sys.executable, str(Path(__file__).with_name("quick_looks.py")))
"""Prefix of a server that looks at its files twenty times a second."""

SECONDS_MAX: Final = 40.0
"""Time for a server to notice changed files, on a busy machine."""


def addresses(server: ServerProcess) -> list[tuple[str, int]]:
    """Returns the addresses of all listeners: REST, workers, producers."""
    urls = (server.http_url, f"//{server.worker_addr}", f"//{server.producer_addr}")
    return [("127.0.0.1", int(url.rpartition(":")[2])) for url in urls]


def unchecked(*alpn: str) -> ssl.SSLContext:
    """Returns a context that accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def shaken(address: tuple[str, int], context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
    """Returns a connection whose handshake is complete; `name` is sent as SNI.

    Raises:
        OSError: The handshake failed.
    """
    connection = socket.create_connection(address, SECONDS_MAX)
    try:
        return context.wrap_socket(connection, server_hostname=name)
    except BaseException:
        connection.close()
        raise


def serial(address: tuple[str, int]) -> int:
    """Returns the serial number of the certificate that a listener shows."""
    with shaken(address, unchecked("h2", "http/1.1")) as connection:
        content = connection.getpeercert(binary_form=True)
    assert content is not None
    return x509.load_der_x509_certificate(content).serial_number


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    give_up = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < give_up, "it does not happen"
        time.sleep(0.01)
