"""The tenants of a shard: the limits in force for each of them, and how often they were refused."""

from __future__ import annotations

from .limits import NO_LIMITS, Limits


class Tenants:
    """Limits and refusals by tenant.

    Attributes:
        version: Rises whenever the limits of any tenant change.

    Args:
        configured: Limits of tenants for which nothing else is set.
    """

    def __init__(self, configured: Limits = NO_LIMITS) -> None:
        self.version = 0
        self._configured = configured

    def limits_of(self, tenant: str) -> Limits:
        """Returns the limits in force for a tenant."""
        return self._configured

    def note_rate_limited(self, tenant: str) -> None:
        """Counts a call or frame that a rate limit refused or delayed."""
