"""A validator that accepts scripted tokens, and a clock that tests advance."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from codeq_server.auth.authenticator import Validation
from codeq_server.auth.claims import NEVER, WORKER_SCOPES, Token

NOW = 1_800_000_000.0


def token_of(
    tenant: str = "acme", expires_at: float = NEVER, *, subject: str = "w", commands: frozenset[str] = frozenset({"*"})
) -> Token:
    return Token(subject, "", WORKER_SCOPES, commands, {"tenantId": tenant}, expires_at)


class ScriptedValidator:
    """Accepts the scripted tokens, either at once or after `release`.

    Attributes:
        tokens: The accepted tokens; a test may change them at any time.
        asked: The tokens validated so far, in order.
        begun: The tokens whose validation has started but is waiting.
        waits: Whether validations wait for `release`.
        trouble: The exception that every validation raises, or None.
    """

    def __init__(self, **tokens: Token) -> None:
        self.tokens = tokens
        self.asked: list[str] = []
        self.begun: list[str] = []
        self.waits = False
        self.trouble: BaseException | None = None
        self._released = asyncio.Event()

    def validate(self, token: str) -> Token | Validation | None:
        self.asked.append(token)
        if self.waits:
            return lambda: self._wait(token)
        return self._told(token)

    def release(self) -> None:
        """Lets all validations finish."""
        self._released.set()

    async def _wait(self, token: str) -> Token | None:
        self.begun.append(token)
        await self._released.wait()
        return self._told(token)

    def _told(self, token: str) -> Token | None:
        if self.trouble is not None:
            raise self.trouble
        return self.tokens.get(token)


class Nobody:
    """A validator that accepts no token."""

    def validate(self, _: str) -> None:
        return None


class ClockedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock tests advance; its wall clock starts at NOW."""

    _ahead = 0.0
    _set_by = 0.0

    def time(self) -> float:
        return super().time() + self._ahead

    def wall(self) -> float:
        """Returns the Unix time in seconds."""
        return NOW + self._ahead + self._set_by

    def forward(self, seconds: float) -> None:
        """Advances both clocks."""
        self._ahead += seconds

    def set_wall(self, seconds: float) -> None:
        """Sets only the wall clock forward."""
        self._set_by += seconds


def in_clocked_loop(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test in a ClockedLoop."""
    with asyncio.Runner(loop_factory=ClockedLoop) as runner:
        runner.run(test)


def clocked() -> ClockedLoop:
    """Returns the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockedLoop)
    return loop
