"""Strangers flood every port at once: a tenant is served throughout, and the log stays short."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from codeq_internal.v1 import call_pb2
from server_process import DEV_TOKEN, ServerProcess

SECONDS: Final = 10.0
ERROR_LINES_MAX: Final = 100
BODY: Final = b'{"command":"A","payload":"' + b"x" * 1_000_000 + b'"}'
ITEMS: Final = b'{"tasks":[' + b",".join([b'{"command":"A"}'] * 500_000) + b"]}"
FORGED: Final = "x\n2026-01-01T00:00:00.000Z [error] forged"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, env={"LOG_FORMAT": "text"}, apart=False) as server:
        yield server


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


def posts(server: ServerProcess, body: bytes, path: str) -> Callable[[], None]:
    """Returns a function that posts a large body without a token on a new connection."""

    def post() -> None:
        with closing(http.client.HTTPConnection(*address(server.http_url), timeout=10)) as connection:
            connection.request("POST", f"/v1/codeq{path}", body)
            assert connection.getresponse().status == 401

    return post


def calls(where: str, method: str, message: bytes) -> Callable[[], None]:
    """Returns a function that makes a gRPC call of one message without a token."""

    def call() -> None:
        with grpc.insecure_channel(where) as channel:
            rpc: Any = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError):
                rpc(message, timeout=10)

    return call


def bytes_to(where: tuple[str, int], content: bytes) -> Callable[[], None]:
    """Returns a function that sends bytes of no known protocol."""

    def send() -> None:
        with closing(socket.create_connection(where, 10)) as connection:
            connection.sendall(content)
            connection.recv(1 << 16)

    return send


def test_tenant_is_served_while_strangers_flood_every_port(server: ServerProcess) -> None:
    named = call_pb2.ExchangeRequest(calls=[call_pb2.Call(number=1, method=FORGED)]).SerializeToString()
    attacks = [
        posts(server, BODY, "/tasks"),
        posts(server, ITEMS, "/tasks/batch"),
        calls(server.producer_addr, "/codeq.v1.TaskService/CreateTask", BODY),
        calls(server.worker_addr, "/codeq_internal.v1.CallService/Exchange", named),
        calls(server.worker_addr, "/grpc.health.v1.Health/Check", b"\xff\xff"),
        calls(server.producer_addr, "/grpc.health.v1.Health/List", b""),
        *(
            bytes_to(address(where), os.urandom(100_000) + b"\r\n\r\n")
            for where in (server.http_url, server.worker_addr, server.producer_addr)
        ),
    ]
    over = threading.Event()
    counts = [0] * len(attacks)

    def attack(number: int) -> None:
        while not over.is_set():
            with suppress(OSError, http.client.HTTPException):
                attacks[number]()
            counts[number] += 1

    before = len(server.log)
    threads = [threading.Thread(target=attack, args=(number,)) for number in range(len(attacks))]
    for thread in threads:
        thread.start()
    try:
        headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
        end, served = time.monotonic() + SECONDS, 0
        with closing(http.client.HTTPConnection(*address(server.http_url), timeout=30)) as tenant:
            while time.monotonic() < end:
                tenant.request("POST", "/v1/codeq/tasks", b'{"command":"MINE"}', headers)
                reply = tenant.getresponse()
                reply.read()
                assert reply.status == 202
                served += 1
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert served
    assert min(counts) > 0, counts
    written = server.log[before:].splitlines()
    assert len([line for line in written if "[error" in line or "[warn" in line]) <= ERROR_LINES_MAX
    assert not [line for line in written if line.startswith(("Traceback", "2026-01-01T"))]
