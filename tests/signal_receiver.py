"""A receiver of signals on this machine, in a thread of its own."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

SECONDS_MAX = 20


class Received(NamedTuple):
    """A request: its path, headers with names in lower case, and body as sent."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class SignalReceiver:
    """The requests so far; all are answered with `status`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 204
        self.requests: queue.Queue[Received] = queue.Queue()

    def next(self) -> Received:
        """Returns the next request, once it arrives."""
        return self.requests.get(timeout=SECONDS_MAX)


@contextmanager
def receiving() -> Iterator[SignalReceiver]:
    """Receives within the block, on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            told.requests.put(Received(self.path, {name.lower(): text for name, text in self.headers.items()}, raw))
            self.send_response(told.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = SignalReceiver(f"http://127.0.0.1:{server.server_port}/ready")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
