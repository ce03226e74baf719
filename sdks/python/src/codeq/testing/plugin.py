"""Fixtures for pytest. To use them, write in the top conftest.py: `pytest_plugins = ["codeq.testing.plugin"]`.

One server process serves the whole session, so each test should use commands of its own; `codeq_command` gives one. A
test that moves the clock gets a server of its own from `codeq_memory_server`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from codeq.client import Client
from codeq.producer import Producer
from codeq.testing.memory import MemoryServer, memory_server
from codeq.testing.processes import LocalServer, temporary_server


@pytest.fixture(scope="session")
def codeq_server() -> Iterator[LocalServer]:
    """A server process with a store in memory, for all tests of the session."""
    with temporary_server(in_memory=True) as server:
        yield server


@pytest.fixture
def codeq_memory_server() -> Iterator[MemoryServer]:
    """A server in this process, for one test, which may move its clock."""
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
