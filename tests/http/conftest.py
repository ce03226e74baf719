"""Servers for the HTTP tests: one with the gateway in its process, one with a standalone gateway, one with TLS."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from authority import Authority
from server_process import START_SECONDS_MAX, ServerProcess

CA_VARIABLES = ("CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables by which stock clients trust an authority."""


@pytest.fixture(scope="session", params=["inside", "apart", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server shared by all tests of this folder."""
    path = tmp_path_factory.mktemp(f"http-{request.param}")
    files = Authority().files(path / "certificates")
    env = files.server_env if request.param == "tls" else {}
    apart = request.param == "apart"
    with (
        pytest.MonkeyPatch.context() as patch,
        ServerProcess(path, apart=apart, flags=["--http-host", "127.0.0.1"], env=env) as started,
    ):
        for name in CA_VARIABLES if env else ():
            patch.setenv(name, str(files.ca))
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
