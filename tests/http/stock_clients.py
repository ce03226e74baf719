"""Stock HTTP clients behind one interface: programs and Python libraries."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import requests
from rest_walk import Send

CLIENTS = Path(__file__).parent / "clients"
HEADERS = {"Authorization": "Bearer dev-token", "Content-Type": "application/json"}
GO = ("go", "run", str(CLIENTS / "sender.go"))
NODE = ("node", str(CLIENTS / "sender.mjs"))
JDK = ("java", str(CLIENTS / "Sender.java"))


@contextmanager
def program(url: str, command: Sequence[str]) -> Iterator[Send]:
    """Runs a program that sends requests from stdin over connections of its own."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    asked, told = process.stdin, process.stdout

    def send(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        sent = "-" if body is None else base64.b64encode(body).decode()
        asked.write(f"{method} {url}{path} {sent}\n")
        asked.flush()
        status, content = told.readline().rstrip("\n").split(" ")
        return int(status), base64.b64decode(content)

    try:
        yield send
        asked.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        asked.close()
        told.close()


@contextmanager
def curl(url: str, *options: str) -> Iterator[Send]:
    """Runs curl for each request."""
    fields = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]

    def send(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        data = [] if body is None else ["--data-binary", "@-"]
        command = ["curl", "-sS", "-m", "60", *options, "-X", method, *fields, *data, "-w", "%{http_code}", url + path]
        output = subprocess.run(command, input=body or b"", capture_output=True, check=True).stdout
        return int(output[-3:]), output[:-3]

    yield send


@contextmanager
def python_requests(url: str) -> Iterator[Send]:
    """Uses one session of requests."""
    with requests.Session() as session:

        def send(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
            reply = session.request(method, url + path, data=body, headers=HEADERS, timeout=60)
            return reply.status_code, reply.content

        yield send


@contextmanager
def python_httpx(url: str) -> Iterator[Send]:
    """Uses one client of httpx."""
    with httpx.Client(headers=HEADERS, timeout=60) as client:

        def send(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
            reply = client.request(method, url + path, content=body)
            return reply.status_code, reply.content

        yield send
