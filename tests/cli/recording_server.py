"""A server that records requests and sends prepared replies."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
"""Runs the command with these arguments; see the fixtures `run` and `client`."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RecordingServer:
    """Records each request, and answers it with the next of `replies`: (status, body).

    A reply with status 307 redirects to `location`.
    """

    endpoint: str
    location: str = ""
    replies: list[tuple[int, bytes]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def reply(self, body: bytes, status: int = 200) -> None:
        self.replies.append((status, body))

    @property
    def request(self) -> Request:
        """The only request."""
        [request] = self.requests
        return request


@contextmanager
def recording_server() -> Iterator[RecordingServer]:
    """Yields a server on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            recording.requests.append(Request(self.command, self.path, headers, body))
            status, reply = recording.replies.pop(0)
            self.send_response(status)
            if status == 307:
                self.send_header("Location", recording.location)
            if status != 204:
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - the names that the base class looks for

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recording = RecordingServer(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield recording
    http.shutdown()
    thread.join()
    http.server_close()
