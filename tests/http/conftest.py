"""Servers for the HTTP tests: one with the gateway in its process, one with a standalone gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from server_process import START_SECONDS_MAX, ServerProcess


@pytest.fixture(scope="session", params=["inside", "apart"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server shared by all tests of this folder."""
    path = tmp_path_factory.mktemp(f"http-{request.param}")
    with ServerProcess(path, apart=request.param == "apart", flags=["--http-host", "127.0.0.1"]) as started:
        _wait_until_ready(started)
        yield started
        print(started.log[-3000:])
        assert started.stop() == 0


def _wait_until_ready(server: ServerProcess) -> None:
    """Waits until a standalone gateway reaches its server."""
    give_up = time.monotonic() + START_SECONDS_MAX
    while httpx.get(f"{server.http_url}/readyz").status_code != 200:
        assert time.monotonic() < give_up, "the server does not become ready"
        time.sleep(0.05)
