"""Fixtures for pytest. To use them, write in the top conftest.py: `pytest_plugins = ["codeq.testing.plugin"]`.

One server in memory serves the whole session, so each test should use commands of its own; `codeq_command` gives one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from codeq.client import Client
from codeq.producer import Producer
from codeq.testing.server import LocalServer, memory_server


@pytest.fixture(scope="session")
def codeq_server() -> Iterator[LocalServer]:
    """A server in memory, for all tests of the session."""
    with memory_server() as server:
        yield server


@pytest.fixture
def codeq_command() -> str:
    """Name of a queue that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def codeq_producer(codeq_server: LocalServer) -> Iterator[Producer]:
    """A producer of the session's server."""
    with codeq_server.producer() as producer:
        yield producer


@pytest.fixture
def codeq_client(codeq_server: LocalServer) -> Iterator[Client]:
    """A client of the session's server."""
    with codeq_server.client() as client:
        yield client
