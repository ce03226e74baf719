"""One server for all SDK tests that do not need their own; each test uses its own commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_process import ServerProcess


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for every test of the session."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as started:
        yield started
        assert started.stop() == 0
