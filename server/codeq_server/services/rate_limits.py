"""Rate limits: which calls have one, what they cost, and what happens at the limit.

A call is charged to the bucket of its token and to that of its tenant, and is refused if either does not allow its
cost. Streams are never refused: they wait. Tasks that were delivered can always be brought to their end, so heartbeats
and outcomes have no limit, and neither have reads that any token may make.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Final, NamedTuple

from codeq.options.v1 import options_pb2

from codeq_server.auth.access import METHODS, access_of
from codeq_server.auth.claims import Claims
from codeq_server.core.buckets import UNIT, Bucket, Buckets
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.limits import Limits, Rate
from codeq_server.engine.rate_line import RateLine
from codeq_server.engine.runner import ShardRunner

PRODUCER: Final = "producer"
WORKER: Final = "worker"
ADMIN: Final = "admin"

RETRY_AFTER: Final = "retryAfterSeconds"
"""Key of a rejection's metadata: seconds after which the call would be allowed, if nobody else makes one."""

UNBOUNDED: Final = 1 << 60
"""The spare deliveries of a stream without a limit."""

GROUPED_MS: Final = 10
"""A worker stream waits until it may take the tasks of this time, so that a high rate makes no frames of one task."""

_CLAIM_SCOPE: Final = "codeq:claim"
_OPERATIONS: Final = {
    "BatchCreateTasks": "create_task",
    "Produce": "create_task",
    "ClaimTask": "claim",
    "ClaimTasks": "claim",
    "Work": "claim",
    "CleanupTasks": "cleanup",
}
"""Operations that are not named like their RPC."""

_ADMINISTERS: Final = frozenset(
    {options_pb2.PRINCIPAL_ADMIN, options_pb2.PRINCIPAL_VIEWER, options_pb2.PRINCIPAL_OPERATOR}
)
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


class Limited(NamedTuple):
    """What a rate limit counts a call as.

    Attributes:
        scope: Name of the rate: PRODUCER, WORKER or ADMIN.
        operation: Name of the call in metrics and rejections, such as "create_task".
    """

    scope: str
    operation: str


def limited_of(name: str) -> Limited | None:
    """Returns what rate limits count an RPC as; None: it has no limit.

    Args:
        name: Full name such as "/codeq.v1.TaskService/CreateTask".
    """
    access, rpc = access_of(name), name.rpartition("/")[2]
    operation = _OPERATIONS.get(rpc) or _WORD.sub("_", rpc).lower()
    if access.principal == options_pb2.PRINCIPAL_PRODUCER:
        return Limited(PRODUCER, operation)
    if access.principal == options_pb2.PRINCIPAL_WORKER and access.scope == _CLAIM_SCOPE:
        return Limited(WORKER, operation)
    return Limited(ADMIN, operation) if access.principal in _ADMINISTERS else None


_LIMITED: Final = [limited_of(f"/{method.containing_service.full_name}/{method.name}") for method in METHODS]

FRAMES: Final = Limited(PRODUCER, "create_task")
"""Frames of producer streams."""

DELIVERIES: Final = Limited(WORKER, "claim")
"""Deliveries to workers."""


Pair = tuple[Bucket | None, Bucket | None]
"""The buckets of a token and of its tenant; None: there is no limit."""

_NO_LIMIT: Final[Pair] = (None, None)


def spare_of(pair: Pair) -> int:
    """Returns the cost that a stream may cause now; UNBOUNDED: there is no limit."""
    token, tenant = pair
    spare = UNBOUNDED if token is None else token.spare
    return spare if tenant is None else min(spare, tenant.spare)


class RateLimits:
    """The buckets of one Serving; they are in memory, and full when it begins.

    Attributes:
        hits: Calls refused, and waits of streams, since then.

    Args:
        runner: Runner of the shard, which has the limits of the tenants and the clock.
    """

    def __init__(self, runner: ShardRunner) -> None:
        self.hits: dict[Limited, int] = {limited: 0 for limited in _LIMITED if limited is not None}
        self._runner = runner
        self._shard = runner.shard
        self._buckets: dict[str, Buckets] = {scope: Buckets() for scope in (PRODUCER, WORKER, ADMIN)}
        self._lines: dict[Bucket, RateLine] = {}
        self._refusal: Rejection | None = None
        """Why streams may not wait; None: they may."""

    def drain(self, refusal: Rejection) -> None:
        """Ends the waits of streams, now and from now on, with the rejection."""
        self._refusal = refusal
        for line in list(self._lines.values()):
            line.fail(refusal.again)

    def go_on_from(self, earlier: RateLimits) -> None:
        """Takes over the buckets and counts of the Serving that this one replaces for reads."""
        self.hits, self._buckets = earlier.hits, earlier._buckets

    def check(self, limited: Limited, claims: Claims, cost: int, *, elsewhere: bool = False) -> None:
        """Charges a call before it is decided.

        Args:
            limited: What the call counts as.
            claims: Its caller.
            cost: Its cost.
            elsewhere: Whether it acts on a tenant other than the caller's, whose bucket is then spared.

        Raises:
            Rejection: RATE_LIMITED; nothing was charged.
        """
        token, tenant = self._of(limited.scope, claims, elsewhere=elsewhere)
        token_ms = 0 if token is None else token.wait_ms(cost, token.reserved)
        tenant_ms = 0 if tenant is None else tenant.wait_ms(cost, tenant.reserved)
        if token_ms or tenant_ms:
            self._note(limited, claims)
            raise _refusal(limited, "token" if token_ms >= tenant_ms else "tenant", max(token_ms, tenant_ms))
        if token is not None:
            token.take(cost)
        if tenant is not None:
            tenant.take(cost)

    def charge(self, limited: Limited, claims: Claims, cost: int) -> None:
        """Charges what has been decided, and goes into debt for it if need be; a negative cost is given back."""
        self.take(self.buckets(limited, claims), cost)

    def buckets(self, limited: Limited, claims: Claims) -> Pair:
        """Returns the buckets of a caller, filled; they are for the current turn only."""
        return self._of(limited.scope, claims)

    def take(self, pair: Pair, cost: int) -> None:
        """Takes a cost from both buckets; see `charge`."""
        for bucket in pair:
            if bucket is not None:
                self._charge(bucket, cost)

    def portion(self, limited: Limited, claims: Claims, most: int) -> int:
        """Returns the cost for which a stream should wait at once, between 1 and `most`."""
        token, tenant = self._of(limited.scope, claims)
        for bucket in (token, tenant):
            if bucket is not None:
                most = min(most, bucket.rate.burst, bucket.rate.per_minute * GROUPED_MS // UNIT)
        return max(1, most)

    async def wait(self, limited: Limited, claims: Claims, cost: int) -> None:
        """Waits until the buckets allow a stream a cost, and takes it; takes nothing if cancelled.

        Raises:
            Rejection: The one given to `drain`; nothing was taken.
        """
        pair = token, tenant = self._of(limited.scope, claims)
        if token is None and tenant is None:
            return
        if not (_is_short(token, cost) or _is_short(tenant, cost)):
            self.take(pair, cost)
            return
        if self._refusal is not None:
            raise self._refusal.again()
        self._note(limited, claims)
        if token is not None and await self._take(token, cost, limited.scope, claims.tenant_id, of_tenant=False):
            tenant = self._of(limited.scope, claims)[1]
        if tenant is None:
            return
        try:
            await self._take(tenant, cost, limited.scope, claims.tenant_id, of_tenant=True)
        except (asyncio.CancelledError, Rejection):
            if token is not None:
                self._charge(token, -cost)
            raise

    def _charge(self, bucket: Bucket, cost: int) -> None:
        bucket.take(cost)
        line = self._lines.get(bucket) if cost < 0 else None
        if line is not None:
            line.look()

    async def _take(self, bucket: Bucket, cost: int, scope: str, tenant: str, *, of_tenant: bool) -> bool:
        """Takes a cost from a bucket, once it allows it; returns whether this had to wait."""
        if not _is_short(bucket, cost):
            bucket.take(cost)
            return False
        line = self._lines.get(bucket)
        if line is None:
            rate = partial(self._rate, scope, tenant, of_tenant)
            line = self._lines[bucket] = RateLine(bucket, rate, self._runner.mono_ms)
        try:
            await line.take(cost)
        finally:
            if not len(line) and self._lines.get(bucket) is line:
                del self._lines[bucket]
        return True

    def _of(self, scope: str, claims: Claims, *, elsewhere: bool = False) -> Pair:
        """Returns the buckets of a caller's token and of its tenant, filled; None: there is no limit."""
        token_rate, tenant_rate = _rates(self._shard.tenants.limits_of(claims.tenant_id), scope)
        by_token = token_rate.per_minute > 0 and token_rate.burst > 0  # `limits`, without the call of a property
        by_tenant = tenant_rate.per_minute > 0 and tenant_rate.burst > 0
        if not by_token and not by_tenant:
            return _NO_LIMIT
        buckets, now_ms = self._buckets[scope], self._runner.mono_ms()
        token = buckets.get(claims.token_key, token_rate, now_ms) if by_token else None
        if not by_tenant or elsewhere or not claims.tenant_id:
            return token, None
        return token, buckets.get(claims.tenant_id, tenant_rate, now_ms)

    def _rate(self, scope: str, tenant: str, of_tenant: bool) -> Rate:  # noqa: FBT001 - of a partial
        return _rates(self._shard.tenants.limits_of(tenant), scope)[of_tenant]

    def _note(self, limited: Limited, claims: Claims) -> None:
        self.hits[limited] += 1
        if claims.tenant_id:
            self._shard.tenants.note_rate_limited(claims.tenant_id)


def _rates(limits: Limits, scope: str) -> tuple[Rate, Rate]:
    """Returns the rates of each token and of the whole tenant."""
    if scope == PRODUCER:
        return limits.producer_token, limits.producer
    if scope == WORKER:
        return limits.worker_token, limits.worker
    return limits.admin_token, limits.admin


def _is_short(bucket: Bucket | None, cost: int) -> bool:
    return bucket is not None and bucket.wait_ms(cost, bucket.reserved) > 0


def _refusal(limited: Limited, subject: str, wait_ms: int) -> Rejection:
    seconds = max(1, -(-wait_ms // 1000))
    about = {"scope": limited.scope, "operation": limited.operation, "subject": subject, RETRY_AFTER: str(seconds)}
    return Rejection(Reason.RATE_LIMITED, "rate limit exceeded", metadata=about)
