"""A server with TLS on all listeners, and the authority that signed its certificate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority, Files
from server_process import ServerProcess
from tls_clients import QUICK


@pytest.fixture
def authority() -> Authority:
    """An authority that only the clients of this test trust."""
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    """Files of the server."""
    return authority.files(tmp_path / "certificates")


@pytest.fixture
def server(files: Files, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that looks at its files twenty times a second."""
    with ServerProcess(tmp_path / "server", env=files.server_env, prefix=QUICK) as started:
        yield started
        print(started.log)
        assert started.stop() == 0
