"""A fast receiver of webhooks in a process of its own, and what it got: requests, and a report on callbacks."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple, Self, cast

import uvloop
from codeq.webhooks import WebhookRejected, verify

BACKLOG: Final = 4096
ANSWER_SECONDS_MAX: Final = 120.0
_OK: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class Request(NamedTuple):
    """A request that was answered.

    Attributes:
        address: Local address at which it arrived.
        head: Request line and headers, as they were sent.
        body: Body as it was sent.
        monotonic: Monotonic time of its arrival in seconds.
        unix: Unix time of its arrival in seconds.
    """

    address: str
    head: bytes
    body: bytes
    monotonic: float
    unix: float

    @property
    def path(self) -> str:
        """Path with query."""
        return self.head.split(b" ", 2)[1].decode()


class Report(NamedTuple):
    """The requests that were answered.

    Attributes:
        arrivals: Monotonic time of the first request of each delivery, by task, in seconds.
        requests: Number of requests.
        repeated: Deliveries that arrived more than once.
        unsigned: Requests whose signature is not valid.
        lags: Seconds from the end of each task to its first request, by local address.
    """

    arrivals: dict[str, float]
    requests: int
    repeated: int
    unsigned: int
    lags: dict[str, list[float]]

    @classmethod
    def of(cls, requests: Sequence[Request], secret: str) -> Self:
        """Judges requests as callbacks that are signed with a secret."""
        seen: Counter[str] = Counter()
        arrivals: dict[str, float] = {}
        lags: dict[str, list[float]] = {}
        unsigned = 0
        for each in requests:
            lines = each.head.decode().split("\r\n")[1:]
            try:
                delivery_id = verify(each.body, dict(line.split(": ", 1) for line in lines), [secret], now=each.unix)
            except WebhookRejected:
                unsigned += 1
                continue
            told: dict[str, Any] = json.loads(each.body)
            seen[delivery_id] += 1
            if seen[delivery_id] == 1:
                arrivals[told["taskId"]] = each.monotonic
                ended = datetime.fromisoformat(told["completedAt"]).timestamp()
                lags.setdefault(each.address, []).append(each.unix - ended)
        repeated = sum(count > 1 for count in seen.values())
        return cls(arrivals, len(requests), repeated, unsigned, lags)


class _Connection(asyncio.Protocol):
    """A connection; requests may be pipelined, and bodies have a length."""

    def __init__(self, got: list[Request], connections: set[asyncio.Transport], silent: str) -> None:
        self._got, self._connections, self._silent = got, connections, silent
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._address = transport.get_extra_info("sockname")[0]
        self._connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(_HEAD_END)) >= 0:
            head = self._data[:end]
            at = head.lower().index(_LENGTH) + len(_LENGTH)
            whole = end + len(_HEAD_END) + int(head[at:].partition(b"\r")[0])
            if len(self._data) < whole:
                return
            body, self._data = self._data[end + len(_HEAD_END) : whole], self._data[whole:]
            if self._address == self._silent:
                continue
            self._got.append(Request(self._address, head, body, time.monotonic(), time.time()))
            self._transport.write(_OK)


def _serve(pipe: Connection, silent: str) -> None:
    """Serves until it is killed; commands come through the pipe."""
    uvloop.run(_obey(pipe, silent))


async def _obey(pipe: Connection, silent: str) -> None:
    loop = asyncio.get_running_loop()
    got: list[Request] = []
    connections: set[asyncio.Transport] = set()
    server: asyncio.Server | None = None
    while True:
        command, argument = await asyncio.to_thread(pipe.recv)
        answer: object = None
        if command == "listen":
            server = await loop.create_server(
                lambda: _Connection(got, connections, silent),
                "0.0.0.0",  # noqa: S104 - every host of the bench leads to it
                argument,
                backlog=BACKLOG,
                reuse_address=True,
            )
            answer = server.sockets[0].getsockname()[1]
        elif command == "close" and server is not None:
            server.close()
            for transport in list(connections):
                transport.abort()
            await server.wait_closed()
        elif command == "count":
            answer = len(got)
        elif command == "requests":
            answer = got
        await asyncio.to_thread(pipe.send, answer)


class WebhookReceiver:
    """The receiver, used in a `with` block; it listens at once, on every address of this machine.

    Attributes:
        port: Its port.

    Args:
        silent: Local address at which requests are read and never answered; empty: none.
    """

    def __init__(self, silent: str = "") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, silent), daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._process.start()
        self.port = int(self._ask("listen", 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def go_away(self) -> None:
        """Closes the port and all connections."""
        self._ask("close")

    def come_back(self) -> None:
        """Listens again on the same port."""
        self._ask("listen", self.port)

    def count(self) -> int:
        """Returns the number of requests so far."""
        return int(self._ask("count"))

    def requests(self) -> list[Request]:
        """Returns the requests so far."""
        return cast("list[Request]", self._ask("requests"))

    def _ask(self, command: str, argument: object = None) -> Any:
        self._pipe.send((command, argument))
        if not self._pipe.poll(ANSWER_SECONDS_MAX):
            raise TimeoutError(f"the receiver does not answer to {command!r}")
        return self._pipe.recv()
