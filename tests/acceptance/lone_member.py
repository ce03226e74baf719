"""A cluster with a single member: a node in Raft mode for tests that need no others."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess

SECONDS_MAX = 30


@contextmanager
def lone_member(folder: Path) -> Iterator[ServerProcess]:
    """Yields the only member of a cluster once it leads."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, 0))
        address = f"{LOOPBACK}:{held.getsockname()[1]}"
        env = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "node-a", "RAFT_BIND_ADDR": address, "RAFT_BOOTSTRAP": "true"}
        with ServerProcess(folder, env=env) as server:
            _wait_ready(server)
            yield server


def _wait_ready(server: ServerProcess) -> None:
    """Waits until the member leads and takes calls."""
    deadline = time.monotonic() + SECONDS_MAX
    while httpx.get(f"{server.http_url}/readyz").status_code != 200:
        assert time.monotonic() < deadline, server.log


def post(server: ServerProcess, path: str, body: Mapping[str, object]) -> httpx.Response:
    """Sends a call, and retries it while no node leads."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        url = f"{server.http_url}/v1/codeq{path}"
        response = httpx.post(url, json=body, headers={"Authorization": f"Bearer {DEV_TOKEN}"})
        if response.status_code != 503:
            return response
        assert time.monotonic() < deadline, server.log
