"""How one call finds the server that leads: which failures it survives, and how long it tries. Pure; no I/O."""

from __future__ import annotations

from typing import Final

from codeq import errors
from codeq.servers import Servers

ATTEMPT_SECONDS_MAX: Final = 5.0
"""Time for one attempt of a call that may be repeated elsewhere; its own wait comes on top."""


class Following:
    """The attempts of one call.

    A refusal by a server that does not lead, or is stopping, changed nothing: any call goes on to another server. After
    a break only a call that may be repeated does. With one server that belongs to no cluster nothing is repeated.
    """

    def __init__(self, servers: Servers, *, repeatable: bool, now: float, timeout: float, wait: float) -> None:
        """Attempts of a call.

        Args:
            servers: Servers that are known.
            repeatable: Whether the call may be carried out twice.
            now: Time of a monotonic clock, in seconds.
            timeout: Seconds within which all of it ends, the call's own wait not included.
            wait: Seconds that the server may wait before it answers.
        """
        self._servers = servers
        self._repeatable = repeatable
        self._deadline = now + timeout + wait
        self._wait = wait
        self.address = servers.current

    def timeout(self, now: float) -> float:
        """Begin an attempt, at the server that `address` names from now on; returns the seconds it may take."""
        self.address = self._servers.current
        left = max(0.0, self._deadline - now)
        return min(left, ATTEMPT_SECONDS_MAX + self._wait) if self._servers.are_many and self._repeatable else left

    def succeeded(self) -> None:
        """Note that the attempt was answered."""
        self._servers.reached()

    def delay_after(self, error: errors.CodeqError, now: float) -> float | None:
        """Seconds to wait before the next attempt; None: there is none, and the error is the answer."""
        if not self._is_survived(error):
            return None
        delay = self._servers.left(self.address, error.metadata.get("leaderGrpc", ""))
        return delay if now + delay < self._deadline else None

    def _is_survived(self, error: errors.CodeqError) -> bool:
        if isinstance(error, errors.NotLeader):
            return True
        if not self._servers.are_many:
            return False
        if isinstance(error, (errors.NotSent, errors.Draining)):
            return True
        broken = (errors.Unavailable, errors.OutcomeUnknown, errors.DeadlineExceeded)
        return self._repeatable and isinstance(error, broken)
