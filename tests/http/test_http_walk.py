"""Every route answers requests with an Upgrade header as it answers all others."""

from __future__ import annotations

import itertools
import json

import pytest
from raw_http import exchange, replies
from rest_walk import PREFIX, Send, Step, Walk
from server_process import ServerProcess
from walk_senders import UPGRADES, sender

NUMBERS = itertools.count(1)


def walk(server: ServerProcess, send: Send) -> list[Step]:
    """Returns the steps of a new walk."""
    return Walk(send, f"walk{next(NUMBERS)}").run()


@pytest.fixture(scope="module")
def plain(server: ServerProcess) -> list[Step]:
    """A walk without an Upgrade header."""
    return walk(server, sender(server.http_url))


def test_walk_covers_every_route(server: ServerProcess, plain: list[Step]) -> None:
    get = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    document = json.loads(replies(exchange(server.http_url, get))[0].body)
    routes = {(method.upper(), _bare(path)) for path, methods in document["paths"].items() for method in methods}
    assert {(method, _bare(PREFIX + template)) for method, template, _, _ in plain} == routes


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("lines", UPGRADES.values(), ids=UPGRADES.keys())
def test_upgrade_header_does_not_change_any_reply(
    server: ServerProcess, plain: list[Step], lines: bytes, chunked: bool
) -> None:
    assert walk(server, sender(server.http_url, lines, chunked=chunked)) == plain


def _bare(path: str) -> str:
    """Returns a path with its variables unnamed."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
