"""Real servers for tests of programs that use the SDK; see `codeq.testing.plugin` for pytest's fixtures."""

from __future__ import annotations

from codeq.testing.memory import Clock, MemoryServer, memory_server
from codeq.testing.processes import LocalServer, temporary_server
from codeq.testing.running import RunningServer, ServerNotFoundError

__all__ = [
    "Clock",
    "LocalServer",
    "MemoryServer",
    "RunningServer",
    "ServerNotFoundError",
    "memory_server",
    "temporary_server",
]
