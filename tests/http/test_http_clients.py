"""Stock clients call every route and get the same replies as bare sockets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from rest_walk import Send, Walk
from server_process import ServerProcess
from stock_clients import GO, NODE, curl, program, python_httpx, python_requests
from walk_senders import sender

NUMBERS = itertools.count(1)
STOCK: dict[str, Callable[[str], AbstractContextManager[Send]]] = {
    "curl": curl,
    "curl --http2": lambda url: curl(url, "--http2"),
    "requests": python_requests,
    "httpx": python_httpx,
    "Node's fetch": lambda url: program(url, NODE),
    "Go's net/http": lambda url: program(url, GO),
}


@pytest.mark.parametrize("client", STOCK.values(), ids=STOCK.keys())
def test_stock_client_calls_every_route(
    server: ServerProcess, client: Callable[[str], AbstractContextManager[Send]]
) -> None:
    with client(server.http_url) as send:
        steps = Walk(send, f"client{next(NUMBERS)}").run()
    assert steps == Walk(sender(server.http_url), f"bare{next(NUMBERS)}").run()
