"""Subscriptions: which URLs want to know when work becomes ready in a tenant's queues, and until when.

A queue's work becomes ready when a task gets a place in one of its lanes, when a task returns to an earlier place, and
when deliveries resume. The first shows in the lanes' tails, the other two in `Queue.reshown`, so nothing is counted per
task: `seal` compares the sum with that of the last batch, and only for queues of tenants with subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from . import keys, tenant_keys
from .alarms import Alarms
from .clock import Now
from .errors import Reason, Rejection
from .model import Queue
from .parsing import parsed, unpacked

if TYPE_CHECKING:
    from .shard import Shard

SUBSCRIPTIONS_PER_TENANT_MAX = 1_000
SUBSCRIPTIONS_MAX = 100_000
"""Maximum number of subscriptions of all tenants together; all of them are in memory."""
SLICE: Final = 256
"""Maximum number of subscriptions that end per call."""


class Wanted(NamedTuple):
    """What a caller subscribes to.

    Attributes:
        url: URL that gets the signals.
        commands: Commands whose work is signalled; empty: every command of the tenant.
        mode: The way in which subscriptions share signals.
        group: Name of the group; empty: none.
        interval_ms: Shortest time between two signals of one command.
        ttl_ms: Time until the subscription ends, unless it is renewed.
    """

    url: str
    commands: tuple[str, ...]
    mode: rows_pb2.SignalMode
    group: str
    interval_ms: int
    ttl_ms: int


class Subscription:
    """A subscription in memory."""

    __slots__ = ("created_ms", "expires_ms", "id", "lsn", "subject", "tenant", "wanted")

    def __init__(self, id: str, tenant: str, subject: str, wanted: Wanted, created_ms: int, expires_ms: int) -> None:  # noqa: A002
        self.lsn = 0
        """Batch that makes it durable; 0: it is stored."""
        self.id = id
        self.tenant = tenant
        self.subject = subject
        self.wanted = wanted
        self.created_ms = created_ms
        self.expires_ms = expires_ms

    def wants(self, command: str) -> bool:
        """Returns whether the subscription is for a command."""
        commands = self.wanted.commands
        return not commands or command in commands

    @property
    def host(self) -> str:
        """Scheme, host and port of the URL; the rest may be secret."""
        return "/".join(self.wanted.url.split("/", 3)[:3]).partition("?")[0]

    @property
    def key(self) -> bytes:
        """Key of the row."""
        return tenant_keys.subscription_key(self.tenant, self.id)

    def row(self) -> bytes:
        """Returns the row."""
        wanted = self.wanted
        return rows_pb2.SubscriptionRow(
            url=wanted.url,
            commands=wanted.commands,
            mode=wanted.mode,
            group=wanted.group,
            interval_ms=wanted.interval_ms,
            ttl_ms=wanted.ttl_ms,
            subject=self.subject,
            created_ms=self.created_ms,
            expires_ms=self.expires_ms,
        ).SerializeToString()


class Readiness(NamedTuple):
    """A subscribed queue that a batch changed.

    Attributes:
        queue: The queue.
        ready: Tasks that a claim would find, at the end of the batch.
        became: Whether work became ready in the batch and was still there at its end.
    """

    queue: Queue
    ready: int
    became: bool


class Subscriptions:
    """The subscriptions of a shard.

    Attributes:
        by_tenant: Subscriptions by tenant and id; only tenants that have some.
        ends: When subscriptions may end.
        count: Number of all of them.
    """

    __slots__ = ("_changes", "_versions", "by_tenant", "count", "ends")

    def __init__(self) -> None:
        self.by_tenant: dict[str, dict[str, Subscription]] = {}
        self.ends: Alarms[Subscription] = Alarms()
        self.count = 0
        self._changes = 0
        self._versions: dict[str, int] = {}

    def version_of(self, tenant: str) -> int:
        """Returns a number that changes whenever a subscription of the tenant is made or ends."""
        return self._versions.get(tenant, 0)

    def add(self, subscription: Subscription) -> None:
        """Adds a subscription to memory."""
        self.by_tenant.setdefault(subscription.tenant, {})[subscription.id] = subscription
        self.ends.set(subscription, subscription.expires_ms)
        self.count += 1
        self._changes += 1
        self._versions[subscription.tenant] = self._changes

    def remove(self, subscription: Subscription) -> None:
        """Removes a subscription from memory."""
        there = self.by_tenant[subscription.tenant]
        del there[subscription.id]
        self._changes += 1
        self._versions[subscription.tenant] = self._changes
        if not there:
            del self.by_tenant[subscription.tenant], self._versions[subscription.tenant]
        self.ends.drop(subscription)
        self.count -= 1

    def readiness(self, changed: Iterable[Queue]) -> list[Readiness]:
        """Returns those of the queues changed by a batch that are subscribed to."""
        found = []
        for queue in changed:
            if queue.tenant in self.by_tenant:
                arrived = arrivals(queue)
                ready = 0 if queue.held else queue.claimable
                found.append(Readiness(queue, ready, ready > 0 and arrived != queue.signalled))
                if ready:
                    queue.signalled = arrived
        return found


def arrivals(queue: Queue) -> int:
    """Returns a number that rises whenever work becomes ready in a queue."""
    lanes = queue.lanes[: keys.LANES]
    return queue.reshown + sum(lane.tail for lane in lanes if lane is not None)


def subscribe(shard: Shard, id: str, tenant: str, subject: str, wanted: Wanted, now: Now) -> Subscription:  # noqa: A002
    """Makes a subscription.

    Args:
        shard: The shard.
        id: Its id, a UUID that no subscription has.
        tenant: Its tenant.
        subject: Subject of the caller's token.
        wanted: What the caller subscribes to.
        now: The time.

    Raises:
        Rejection: LIMIT_REACHED.
    """
    subscriptions = shard.subscriptions
    if len(subscriptions.by_tenant.get(tenant, ())) >= SUBSCRIPTIONS_PER_TENANT_MAX:
        text = f"the tenant has {SUBSCRIPTIONS_PER_TENANT_MAX} subscriptions, the most there may be"
        raise Rejection(Reason.LIMIT_REACHED, text)
    if subscriptions.count >= SUBSCRIPTIONS_MAX:
        raise Rejection(Reason.LIMIT_REACHED, f"the server has {SUBSCRIPTIONS_MAX} subscriptions, its limit")
    made = Subscription(id, tenant, subject, wanted, now.wall_ms, now.wall_ms + wanted.ttl_ms)
    made.lsn = shard.batch.lsn
    subscriptions.add(made)
    _put(shard, made)
    return made


def ready_work(shard: Shard, tenant: str, commands: Iterable[str] = ()) -> list[Readiness]:
    """Returns the queues of a tenant that have work for a claim; `commands` empty: all of them."""
    there = shard.directory.tenants.get(tenant)
    names = commands or (there.commands if there is not None else ())
    queues = [shard.by_name.get((tenant, name)) for name in names]
    going = [each for each in queues if each is not None and not each.held]
    return [Readiness(each, each.claimable, became=True) for each in going if each.claimable]


def find(shard: Shard, tenant: str, id: str) -> Subscription:  # noqa: A002
    """Returns a subscription of a tenant.

    Raises:
        Rejection: SUBSCRIPTION_NOT_FOUND.
    """
    found = shard.subscriptions.by_tenant.get(tenant, {}).get(id)
    if found is None:
        raise unknown()
    return found


def unknown() -> Rejection:
    """Returns the rejection of a call about a subscription that the caller does not have."""
    return Rejection(Reason.SUBSCRIPTION_NOT_FOUND, "the tenant has no subscription with this id")


def renew(shard: Shard, subscription: Subscription, ttl_ms: int, now: Now) -> None:
    """Makes a subscription last from now on, for `ttl_ms` or, if that is 0, as long as it did before."""
    if ttl_ms:
        subscription.wanted = subscription.wanted._replace(ttl_ms=ttl_ms)
    subscription.expires_ms = now.wall_ms + subscription.wanted.ttl_ms
    shard.subscriptions.ends.set(subscription, subscription.expires_ms)
    _put(shard, subscription)


def unsubscribe(shard: Shard, subscription: Subscription) -> None:
    """Ends a subscription, unless it has ended already."""
    if shard.subscriptions.by_tenant.get(subscription.tenant, {}).get(subscription.id) is subscription:
        shard.subscriptions.remove(subscription)
        shard.batch.rows[subscription.key] = None


def expire_subscriptions(shard: Shard, now: Now) -> bool:
    """Ends subscriptions that were not renewed in time, tenant by tenant; returns whether there are more to end."""
    subscriptions, ends = shard.subscriptions, shard.subscriptions.ends
    for _ in range(SLICE):
        subscription = ends.turn(now.wall_ms)
        if subscription is None:
            break
        is_live = subscriptions.by_tenant.get(subscription.tenant, {}).get(subscription.id) is subscription
        if is_live and subscription.expires_ms > now.wall_ms:
            ends.rest(subscription, subscription.expires_ms, now.wall_ms)
            continue
        ends.rest(subscription, None, now.wall_ms)
        unsubscribe(shard, subscription)
    return ends.first_ms <= now.wall_ms


def adopt(shard: Shard, key: bytes, value: bytes) -> None:
    """Takes over a stored subscription."""
    row = parsed(rows_pb2.SubscriptionRow, key, value)
    tenant, id = unpacked(tenant_keys.split_subscription_key, key, key)  # noqa: A001
    wanted = Wanted(row.url, tuple(row.commands), row.mode, row.group, row.interval_ms, row.ttl_ms)
    shard.subscriptions.add(Subscription(id, tenant, row.subject, wanted, row.created_ms, row.expires_ms))


def _put(shard: Shard, subscription: Subscription) -> None:
    row = subscription.row()
    shard.batch.rows[subscription.key] = row
    shard.batch.size += len(row)
