"""One server for all tests of the SDK that do not need one of their own; each of them uses commands of its own."""

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
