"""Fixtures shared by tests of every kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from codeq_server import is_compiled
from server_process import ServerProcess

BUILD = "compiled" if is_compiled() else "interpreted"


def pytest_report_header() -> str:
    """Reports which build is tested. TESTED_BUILD names the expected build; any other fails the run."""
    meant = os.environ.get("TESTED_BUILD", BUILD)
    if meant != BUILD:
        raise pytest.UsageError(f"the tests import the {BUILD} build, not the {meant} one")
    return f"codeq: {BUILD}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that replace functions of the product if the build is compiled, as its functions are fixed."""
    if BUILD == "compiled":
        fixed = [item for item in items if item.get_closest_marker("interpreted")]
        items[:] = [item for item in items if item not in fixed]
        config.hook.pytest_deselected(items=fixed)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with a fresh store, started with --dev. A test that leaves it running also tests that it stops."""
    with ServerProcess(tmp_path / "server") as started:
        yield started
        print(started.log)
        if started.is_running:
            assert started.stop() == 0
