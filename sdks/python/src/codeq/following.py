"""How one call finds the leader: the failures after which it is retried, and for how long. Pure; no I/O."""

from __future__ import annotations

from typing import Final

from codeq import errors
from codeq.servers import Servers

ATTEMPT_SECONDS_MAX: Final = 5.0
"""Timeout of one attempt of a call that can be retried on another server; its `wait` comes on top."""


RATE_LIMITED_SECONDS: Final = 1.0
"""Delay after a refusal by a rate limit that asks for none."""


class Following:
    """The attempts of one call.

    A server that does not lead, or is shutting down, rejects a call without changing anything, so the call moves on to
    another server. After a lost connection, only a repeatable call does. A call refused by a rate limit, which changed
    nothing either, returns to its server after the delay that the server asked for. With a single server outside a
    cluster, nothing else is retried.
    """

    def __init__(self, servers: Servers, *, repeatable: bool, now: float, timeout: float, wait: float) -> None:
        """Prepares the attempts of a call.

        Args:
            servers: The known servers.
            repeatable: Whether the call may run twice.
            now: Current time on a monotonic clock, in seconds.
            timeout: Seconds for all attempts together, not counting the call's `wait`.
            wait: Seconds that the server may wait before it answers.
        """
        self._servers = servers
        self._repeatable = repeatable
        self._deadline = now + timeout + wait
        self._wait = wait
        self.address = servers.current

    def timeout(self, now: float) -> float:
        """Starts an attempt at the current server, which is then in `address`; returns the seconds that it may take."""
        self.address = self._servers.current
        left = max(0.0, self._deadline - now)
        return min(left, ATTEMPT_SECONDS_MAX + self._wait) if self._servers.are_many and self._repeatable else left

    def succeeded(self) -> None:
        """Records that the attempt was answered."""
        self._servers.reached()

    def delay_after(self, error: errors.CodeqError, now: float) -> float | None:
        """Returns the seconds to wait before the next attempt; None: no more attempts, raise the error."""
        if isinstance(error, errors.RateLimited):
            delay = error.retry_after or RATE_LIMITED_SECONDS
            return delay if now + delay < self._deadline else None
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
