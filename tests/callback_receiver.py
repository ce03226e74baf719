"""A receiver of webhooks on loopback, which records what it gets and answers as it is told."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

SECONDS_MAX = 30


class _Server(http.server.ThreadingHTTPServer):
    """A server that says nothing about clients that leave."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)  # type: ignore[arg-type]


class Received(NamedTuple):
    """A request.

    Attributes:
        path: Path with query.
        headers: Headers, with names in lower case.
        body: Body as it was sent.
        at: Unix time.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


class Receiver:
    """An HTTP server in a thread.

    Attributes:
        requests: Requests so far.
        answer: Returns the status for a request, or status and headers.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.answer: Callable[[Received], int | tuple[int, dict[str, str]]] = lambda _: 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(self.path, headers, body, time.time())
                outer.requests.append(received)
                answer = outer.answer(received)
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """URL of the receiver, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of(self, path: str) -> list[Received]:
        """Returns the requests to a path."""
        return [each for each in self.requests if each.path == path]

    def wait(self, path: str, count: int = 1, seconds: float = SECONDS_MAX) -> list[Received]:
        """Waits for this many requests to a path, and returns them."""
        end = time.monotonic() + seconds
        while len(self.of(path)) < count:
            assert time.monotonic() < end, f"{len(self.of(path))} of {count} requests to {path}"
            time.sleep(0.01)
        return self.of(path)
