"""A collector, and a server that exports to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from otlp_collector import Collector
from server_process import ServerProcess
from traced_programs import Programs


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Programs:
    """The programs, compiled once for all processes of the test run."""
    own = tmp_path_factory.getbasetemp()
    return Programs(own if worker_id == "master" else own.parent)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that takes everything."""
    with Collector() as started:
        yield started


@pytest.fixture
def traced(tmp_path: Path, collector: Collector) -> Iterator[ServerProcess]:
    """A server that exports its spans to the collector; it has exported all once it has stopped."""
    env = {
        "TRACING_ENABLED": "true",
        "TRACING_OTLP_ENDPOINT": collector.grpc_url,
        "RESULT_WEBHOOK_BASE_BACKOFF_SECONDS": "1",
    }
    with ServerProcess(tmp_path / "server", env=env, apart=False) as started:
        yield started
        print(started.log)
