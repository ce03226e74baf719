"""Real servers for tests of programs that use the SDK; see `codeq.testing.plugin` for pytest's fixtures."""

from __future__ import annotations

from codeq.testing.server import LocalServer, ServerNotFoundError, memory_server, temporary_server

__all__ = ["LocalServer", "ServerNotFoundError", "memory_server", "temporary_server"]
