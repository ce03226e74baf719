"""The listener for profiles and the level of the log, for people on the server's machine.

It has threads of its own, so it answers even if the event loop is stuck; that is when a profile is needed most. It
listens on loopback only, and refuses requests for other host names and those that a browser on the machine sends for a
web page, since either way any page could slow the server.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from . import heap
from .formats import CONTENT_TYPES, PPROF, encoded
from .sampling import Sampler
from .stacks import Profile

CPU_PATH: Final = "/debug/pprof/profile"
HEAP_PATH: Final = "/debug/pprof/heap"
LEVEL_PATH: Final = "/debug/log-level"
SECONDS_MAX: Final = 300
SECONDS_DEFAULT: Final = {CPU_PATH: 30, HEAP_PATH: 10}
"""Length of a profile if the request names none."""
REQUEST_SECONDS = 5.0
"""Time for a client to send its whole request, and as much to take the reply; then its connection is closed."""
CONNECTIONS_MAX: Final = 8
"""Maximum connections; further ones are closed at once."""
POLL_SECONDS: Final = 0.05
"""Longest time that `stop` waits."""
LOOK_SECONDS: Final = 0.1
"""Time between two looks at the client of a profile in progress."""
LEVEL_BYTES_MAX: Final = 16
LEVELS: Final = ("debug", "info", "warn", "error")

_INDEX: Final = f"""GET {CPU_PATH}?seconds=30&format=pprof|speedscope
GET {HEAP_PATH}?seconds=10&format=pprof|speedscope
GET {LEVEL_PATH}
PUT {LEVEL_PATH} with one of {", ".join(LEVELS)}
"""


class DebugListener:
    """Serves profiles and the level of the log until `stop`. Must be created in the thread to be profiled.

    Meanwhile it owns SIGPROF.

    Args:
        host: Loopback address.
        port: Port; 0: any free one.
        level: Returns the level of the log.
        set_level: Sets it; called from another thread.

    Attributes:
        port: The port.

    Raises:
        OSError: The port cannot be opened.
    """

    def __init__(self, host: str, port: int, level: Callable[[], str], set_level: Callable[[str], None]) -> None:
        self._level, self._set_level = level, set_level
        self._stopping = threading.Event()
        self._profiling = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = _Server(family, (host.strip("[]"), port), partial(_Handler, self))
        self._sampler = Sampler(threading.current_thread())
        self.port: int = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="codeq-debug", daemon=True
        ).start()

    def stop(self) -> None:
        """Ends profiles in progress, and closes the port; called by the thread to be profiled."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._sampler.close()

    def answer(self, method: str, target: str, body: bytes, client: socket.socket) -> tuple[int, str, bytes]:
        """Returns status, content type and body of a reply; a profile ends early if its client leaves."""
        _, _, path, query, _ = urlsplit(target)
        if path == LEVEL_PATH:
            return self._answer_level(method, body)
        if method != "GET":
            return _text(405, "only GET is allowed\n")
        if path in SECONDS_DEFAULT:
            return self._answer_profile(path, query, _Ending(self._stopping, client))
        return _text(200, _INDEX) if path in {"/", "/debug/pprof", "/debug/pprof/"} else _text(404, "not found\n")

    def _answer_level(self, method: str, body: bytes) -> tuple[int, str, bytes]:
        if method == "PUT":
            wanted = body.decode("latin-1").strip()
            if wanted not in LEVELS:
                return _text(400, f"the level must be one of {', '.join(LEVELS)}\n")
            self._set_level(wanted)
        return _text(200, f"{self._level()}\n")

    def _answer_profile(self, path: str, query: str, ending: _Ending) -> tuple[int, str, bytes]:
        given = {name: values[-1] for name, values in parse_qs(query).items()}
        form, text = given.get("format", PPROF), given.get("seconds", str(SECONDS_DEFAULT[path]))
        if form not in CONTENT_TYPES:
            return _text(400, f"format must be one of {', '.join(CONTENT_TYPES)}\n")
        if not 1 <= _number(text) <= SECONDS_MAX:
            return _text(400, f"seconds must be a whole number from 1 to {SECONDS_MAX}\n")
        if not self._profiling.acquire(blocking=False):
            return _text(429, "another profile is being made\n")
        try:
            profile = self._make(path, _number(text), ending)
        finally:
            self._profiling.release()
        return 200, CONTENT_TYPES[form], encoded(profile, form)

    def _make(self, path: str, seconds: int, ending: _Ending) -> Profile:
        if path == HEAP_PATH:
            return heap.record(seconds, ending)
        return self._sampler.sample(seconds, ending)


class _Ending:
    """Ends a profile early: when the server stops, or the client has left.

    Args:
        stopping: Set when the server stops.
        client: Connection of the client.
    """

    def __init__(self, stopping: threading.Event, client: socket.socket) -> None:
        self._stopping, self._client = stopping, client
        self._look = 0.0
        client.settimeout(0)

    def wait(self, timeout: float) -> bool:
        """Waits for some seconds; returns whether the profile ends."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            if self._stopping.wait(min(left, LOOK_SECONDS)) or self._has_client_left():
                return True
        return False

    def _has_client_left(self) -> bool:
        now = time.monotonic()
        if now < self._look:
            return False
        self._look = now + LOOK_SECONDS
        try:
            return not self._client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


class _Request(io.RawIOBase):
    """What a client sends, until a deadline for all of it."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__()
        self._client = client
        self._until = time.monotonic() + REQUEST_SECONDS

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads what has come; raises TimeoutError at the deadline."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._client.settimeout(left)
        return self._client.recv_into(buffer)


class _Server(ThreadingHTTPServer):
    """An HTTP server with few connections."""

    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int], handler: Callable[..., Any]) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors of connections: the client is gone."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server_version, sys_version = "codeq", ""

    def __init__(self, listener: DebugListener, *args: Any) -> None:
        self._listener = listener
        super().__init__(*args)

    def setup(self) -> None:
        """Bounds the time of the whole request; see StreamRequestHandler."""
        super().setup()
        self.rfile = io.BufferedReader(_Request(self.connection))

    def do_GET(self) -> None:
        self._reply()

    def do_PUT(self) -> None:
        self._reply()

    def _reply(self) -> None:
        size = _number(self.headers.get("Content-Length", "0"))
        if not _is_loopback(self.headers.get("Host", "")):
            status, content_type, body = _text(403, "the Host header must name this machine's loopback\n")
        elif self.headers.get("Origin") or self.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            status, content_type, body = _text(403, "requests of other web pages are not answered\n")
        elif not 0 <= size <= LEVEL_BYTES_MAX:
            status, content_type, body = _text(413, "the body is too long\n")
        else:
            sent = self.rfile.read(size)
            status, content_type, body = self._listener.answer(self.command, self.path, sent, self.connection)
        self.connection.settimeout(REQUEST_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing: the log is for the server's own events."""


def _text(status: int, text: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", text.encode()


def _number(text: str) -> int:
    """Returns a whole number of at most six digits; -1: the text is none."""
    return int(text) if len(text) <= 6 and text.isascii() and text.isdecimal() else -1


def _is_loopback(authority: str) -> bool:
    """Returns whether a Host header names this machine's loopback; a missing one does not."""
    try:
        host = urlsplit(f"//{authority}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
