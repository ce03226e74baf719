"""The tenants of a shard: the limits in force for each of them, and how often they were refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from .errors import Reason, Rejection
from .limits import INHERITED, NO_LIMITS, Limits, Overrides, in_force, share_of

DEFAULT: Final = "_default"
"""Name under which the limits of all tenants without limits of their own are stored; no tenant can have it."""
TENANT_LIMITS_MAX = 10_000
"""Maximum number of tenants with limits of their own, which are all in memory."""
REFUSED_TENANTS_MAX = 10_000
"""Maximum number of tenants whose refusals are counted; the tenant refused least recently is forgotten."""
MINUTE_MS: Final = 60_000

QUEUES: Final = "queuesMax"
NEW_QUEUES: Final = "newQueuesPerMinute"
WAITING_TASKS: Final = "waitingTasksMax"
STORED_BYTES: Final = "storedBytesMax"
LEASES: Final = "leasesMax"
STREAMS: Final = "streamsMax"
QUOTAS: Final = (WAITING_TASKS, STORED_BYTES, LEASES, QUEUES, STREAMS, NEW_QUEUES)
"""The quotas, by the names of their fields in the JSON of codeq.v1.TenantLimits."""


class Refused:
    """How often a tenant was refused since the shard was opened."""

    __slots__ = ("by_quota", "by_rate")

    def __init__(self) -> None:
        self.by_quota = 0
        self.by_rate = 0


class Tenants:
    """Limits and refusals by tenant.

    Attributes:
        version: Rises whenever the limits of any tenant change.
        own: Names of tenants with limits of their own.
        quota_refusals: Refusals by quota.

    Args:
        configured: Limits of tenants for which nothing else is set.
        shards: Number of shards, which share the limits.
    """

    def __init__(self, configured: Limits = NO_LIMITS, shards: int = 1) -> None:
        self._shards = shards
        self.version = 0
        self.own: dict[str, Overrides] = {}
        self.quota_refusals = dict.fromkeys(QUOTAS, 0)
        self._configured = configured
        self._defaults = configured
        """Limits of tenants without limits of their own."""
        self._default_share = share_of(configured, shards)
        self._shares: dict[str, Limits] = {}
        """What the shard enforces for the tenants with limits of their own."""
        self._refused: OrderedDict[str, Refused] = OrderedDict()
        self._opened: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Start of the minute in which each tenant last opened queues, in Unix milliseconds, and how many it opened;
        the earliest minute comes first."""

    # -- limits ----------------------------------------------------------------------------------------------------

    def limits_of(self, tenant: str) -> Limits:
        """Returns the limits of a tenant that the shard enforces: with several shards, its share of them."""
        return self._shares.get(tenant, self._default_share)

    def whole_limits_of(self, tenant: str) -> Limits:
        """Returns the limits in force for a tenant, over all shards."""
        return in_force(self.own.get(tenant, INHERITED), self._defaults)

    def check_room(self, name: str) -> None:
        """Checks that a tenant may have limits of its own.

        Raises:
            Rejection: LIMIT_REACHED.
        """
        if name != DEFAULT and name not in self.own and len(self.own) >= TENANT_LIMITS_MAX:
            raise Rejection(
                Reason.LIMIT_REACHED, f"{TENANT_LIMITS_MAX} tenants have limits of their own, the most there may be"
            )

    def put(self, name: str, own: Overrides) -> None:
        """Sets the limits of a tenant's own, or those of all tenants without."""
        self.version += 1
        if name == DEFAULT:
            self._defaults = in_force(own, self._configured)
            self._default_share = share_of(self._defaults, self._shards)
            for tenant, each in self.own.items():
                self._shares[tenant] = share_of(in_force(each, self._defaults), self._shards)
        elif own == INHERITED:
            self.own.pop(name, None)
            self._shares.pop(name, None)
        else:
            self.own[name] = own
            self._shares[name] = share_of(in_force(own, self._defaults), self._shards)

    # -- refusals --------------------------------------------------------------------------------------------------

    def refused(self, tenant: str) -> Refused:
        """Returns how often a tenant was refused."""
        return self._refused.get(tenant) or Refused()

    def note_rate_limited(self, tenant: str) -> None:
        """Counts a call or frame that a rate limit refused or delayed."""
        self._note(tenant).by_rate += 1

    def refuse(self, tenant: str, quota: str, limit: int, text: str) -> Rejection:
        """Counts a refusal by a quota, and returns the rejection.

        Args:
            tenant: The tenant.
            quota: Name of the limit, one of QUOTAS.
            limit: The limit.
            text: What the tenant has as much of as it may.
        """
        self._note(tenant).by_quota += 1
        self.quota_refusals[quota] += 1
        reason = Reason.TOO_MANY_QUEUES if quota == QUEUES else Reason.QUOTA_EXCEEDED
        return Rejection(reason, text, metadata={"quota": quota, "limit": str(limit)})

    def _note(self, tenant: str) -> Refused:
        refused = self._refused.get(tenant)
        if refused is None:
            if len(self._refused) >= REFUSED_TENANTS_MAX:
                self._refused.popitem(last=False)
            refused = self._refused[tenant] = Refused()
        self._refused.move_to_end(tenant)
        return refused

    # -- new queues ------------------------------------------------------------------------------------------------

    def check_opening(self, tenant: str, count: int, wall_ms: int) -> None:
        """Checks that a tenant may open this many queues now.

        Raises:
            Rejection: QUOTA_EXCEEDED.
        """
        limit = self.limits_of(tenant).new_queues_per_minute
        if limit and self._opened_lately(tenant, wall_ms)[1] + count > limit:
            text = f"the tenant's quota of new queues per minute is {limit} ({NEW_QUEUES}); try again later"
            raise self.refuse(tenant, NEW_QUEUES, limit, text)

    def note_opened(self, tenant: str, wall_ms: int) -> None:
        """Counts a queue that a tenant opened."""
        if self.limits_of(tenant).new_queues_per_minute:
            start, count = self._opened_lately(tenant, wall_ms)
            self._opened[tenant] = (start, count + 1)

    def _opened_lately(self, tenant: str, wall_ms: int) -> tuple[int, int]:
        """Returns the start of a tenant's current minute and the queues opened since; forgets minutes that are over."""
        opened = self._opened
        while opened and next(iter(opened.values()))[0] + MINUTE_MS <= wall_ms:
            opened.popitem(last=False)
        return opened.get(tenant, (wall_ms, 0))
