"""Fixtures shared by tests of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with a fresh store, started with --dev. A test that leaves it running also tests that it stops well."""
    with ServerProcess(tmp_path / "server") as started:
        yield started
        print(started.log)
        if started.is_running:
            assert started.stop() == 0
