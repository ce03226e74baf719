"""When leases end: a heap of claims for each tenant."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from .alarms import Alarms


class TenantEnds:
    """The lease ends of one tenant's claims: a heap of (end on the monotonic clock, token)."""

    __slots__ = ("heap", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.heap: list[tuple[int, int]] = []


class LeaseEnds:
    """The lease ends of all claims, including claims without live deliveries; tenants take turns.

    Attributes:
        alarms: When the leases of each tenant's next claim end.
        count: Claims listed.
    """

    __slots__ = ("alarms", "count", "tenants")

    def __init__(self) -> None:
        self.alarms: Alarms[TenantEnds] = Alarms()
        self.tenants: dict[str, TenantEnds] = {}
        self.count = 0

    def add(self, tenant: str, until_ms: int, token: int) -> None:
        """Adds a claim."""
        ends = self.tenants.get(tenant)
        if ends is None:
            ends = self.tenants[tenant] = TenantEnds(tenant)
        heapq.heappush(ends.heap, (until_ms, token))
        self.count += 1
        self.alarms.set(ends, until_ms)

    def turn(self, now_ms: int) -> TenantEnds | None:
        """Returns the tenant whose turn it is, or None if nothing is due. `rest` ends the turn."""
        return self.alarms.turn(now_ms)

    def pop(self, ends: TenantEnds) -> int:
        """Removes a tenant's first claim from the list and returns its token."""
        self.count -= 1
        return heapq.heappop(ends.heap)[1]

    def rest(self, ends: TenantEnds, now_ms: int) -> None:
        """Ends a tenant's turn."""
        if ends.heap:
            self.alarms.rest(ends, ends.heap[0][0], now_ms)
        else:
            del self.tenants[ends.tenant]
            self.alarms.rest(ends, None, now_ms)

    def keep(self, tokens: Collection[int]) -> None:
        """Removes the claims that are not among `tokens`; a tenant left without claims is dropped in its next turn."""
        self.count = 0
        for ends in self.tenants.values():
            ends.heap = [end for end in ends.heap if end[1] in tokens]
            heapq.heapify(ends.heap)
            self.count += len(ends.heap)
