"""Sends signals: tells subscribers over HTTP that work became ready, once the batch that says so is durable."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from codeq_server.core.errors import Rejection
from codeq_server.core.model import Queue
from codeq_server.core.subscriptions import Readiness, Subscription, ready_work, unsubscribe
from codeq_server.engine.runner import ShardRunner
from codeq_server.webhooks import signing
from codeq_server.webhooks.audiences import Audience, Member, Target
from codeq_server.webhooks.bodies import rfc3339
from codeq_server.webhooks.outgoing import Outgoing
from codeq_server.webhooks.sender import Answer

IN_FLIGHT_MAX: Final = 1024
"""Signals in flight at a time, of all tenants."""
IN_FLIGHT_PER_TENANT_MAX: Final = 256
SUSPECTS_MAX: Final = 64
"""Signals in flight to subscriptions whose last one failed: dead subscribers keep nobody waiting."""
AUDIENCES_MAX = 20_000
TARGETS_MAX = 100_000
"""Commands, and receivers of all commands together, that are in memory; beyond, commands that got work least recently
are forgotten, and their intervals with them. If their signals are pending, signals of further commands are dropped."""
LOOKED_AT: Final = 8
"""Commands that are examined at the limit for each further one."""
TARGETS_PER_TURN: Final = 16
"""Signals that a turn of the event loop begins at most."""

CLAIM_URL: Final = "/v1/codeq/tasks/claim"
KIND: Final = "queue_ready"
"""Kind of these requests in metrics."""
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
RATE_LIMITED: Final = "rate_limited"
DROPPED: Final = "dropped"
OUTCOMES: Final = (DELIVERED, FAILED, RATE_LIMITED, DROPPED)
"""Outcomes of signals in metrics."""

SUSPECT_WAIT_MS: Final = 1_000
"""Time after which a signal to such a subscription is tried again while there are that many."""

_GONE: Final = 410


class Notifier:
    """The signals of one Serving.

    Attributes:
        outgoing: Makes the requests.
        outcomes: Number of signals by outcome.

    Args:
        runner: Runner of the shard.
        outgoing: Makes the requests.
    """

    def __init__(self, runner: ShardRunner, outgoing: Outgoing) -> None:
        self.outgoing = outgoing
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._runner = runner
        self._subscriptions = runner.shard.subscriptions
        self._audiences: OrderedDict[tuple[str, str], Audience] = OrderedDict()
        self._waiting: list[tuple[int, int, Target]] = []
        """Heap of pending signals that may be sent later: time in monotonic milliseconds, number, target."""
        self._due: OrderedDict[str, deque[Target]] = OrderedDict()
        """Pending signals that may be sent now, by tenant; tenants take turns."""
        self._changed: list[Readiness] = []
        """Queues that durable batches changed, until the next turn of the loop."""
        self._targets = 0
        """Targets of all audiences."""
        self._numbers = itertools.count(1)
        self._in_flight: Counter[str] = Counter()
        self._in_flight_total = 0
        self._suspects: set[str] = set()
        """Ids of subscriptions whose last signal failed."""
        self._suspects_in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._pumping = False
        self._stopped = False

    def start(self) -> None:
        """Signals all ready work of subscribed queues: nobody knows which signals an earlier leader has sent."""
        self._runner.on_readiness = self.take
        for tenant in self._subscriptions.by_tenant:
            self.take(ready_work(self._runner.shard, tenant))

    def stop(self) -> None:
        """Sends nothing more; requests in flight end by themselves, and nothing follows from them."""
        self._stopped = True
        self._runner.on_readiness = None
        if self._timer is not None:
            self._timer.cancel()

    def take(self, changed: Sequence[Readiness]) -> None:
        """Notes subscribed queues that a durable batch changed; what follows happens in a later turn of the loop."""
        self._changed.extend(changed)
        self._pump()

    def welcome(self, subscription: Subscription, ready: Sequence[Readiness]) -> None:
        """Signals work to a new subscription.

        Args:
            subscription: The subscription, which is durable.
            ready: Work that was ready for it when it was made.
        """
        now_ms = self._runner.mono_ms()
        for queue, count, _ in ready:
            audience = self._opened(queue)
            if audience is None:
                continue
            audience.ready = count
            self._refresh(audience)
            for target in list(audience.idle):
                if any(member.subscription is subscription for member in target.members):
                    self._make_pending(target, now_ms)
        self._pump()

    # -- who gets signals ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Makes signals pending where work became ready."""
        changed, self._changed = self._changed, []
        now_ms = self._runner.mono_ms()
        for queue, ready, became in changed:
            audience = self._opened(queue) if became else self._audiences.get((queue.tenant, queue.command))
            if audience is None:
                continue
            audience.ready = ready
            if became:
                self._refresh(audience)
                for target in list(audience.idle):
                    self._make_pending(target, now_ms)

    def _opened(self, queue: Queue) -> Audience | None:
        """Returns the audience of a queue; None: there are too many, and the signal is dropped."""
        key = (queue.tenant, queue.command)
        audience = self._audiences.get(key)
        if audience is None:
            if not self._make_room():
                self._note(DROPPED)
                return None
            audience = self._audiences[key] = Audience(queue.tenant, queue.command)
        self._audiences.move_to_end(key)
        return audience

    def _make_room(self) -> bool:
        """Forgets audiences that got work least recently; returns whether there is room for another one."""
        for _ in range(LOOKED_AT):
            if len(self._audiences) < AUDIENCES_MAX and self._targets < TARGETS_MAX:
                return True
            key, oldest = self._audiences.popitem(last=False)
            if oldest.is_quiet:
                self._targets -= len(oldest.targets)
            else:
                self._audiences[key] = oldest
        return len(self._audiences) < AUDIENCES_MAX and self._targets < TARGETS_MAX

    def _refresh(self, audience: Audience) -> None:
        version = self._subscriptions.version_of(audience.tenant)
        if audience.version == version:
            return
        durable_lsn = self._runner.durable_lsn
        there = self._subscriptions.by_tenant.get(audience.tenant, {}).values()
        durable = [each for each in there if each.lsn <= durable_lsn]
        self._targets -= len(audience.targets)
        audience.update(durable, version if len(durable) == len(there) else -1)
        self._targets += len(audience.targets)

    def _make_pending(self, target: Target, now_ms: int) -> None:
        target.pending = True
        target.audience.idle.pop(target, None)
        self._schedule(target, target.choose(now_ms).next_ms, now_ms)

    def _settle(self, target: Target) -> None:
        """Ends a pending signal."""
        target.pending = False
        if target.members:
            target.audience.idle[target] = None

    # -- when they are sent ----------------------------------------------------------------------------------------

    def _schedule(self, target: Target, at_ms: int, now_ms: int) -> None:
        if at_ms <= now_ms:
            self._due.setdefault(target.audience.tenant, deque()).append(target)
            return
        heapq.heappush(self._waiting, (at_ms, next(self._numbers), target))
        if self._timer is not None and self._timer_ms <= at_ms:
            return
        self._arm(at_ms, now_ms)

    def _arm(self, at_ms: int, now_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = at_ms
        self._timer = self._runner.loop.call_later((at_ms - now_ms) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_ms = self._runner.mono_ms()
        waiting = self._waiting
        while waiting and waiting[0][0] <= now_ms:
            target = heapq.heappop(waiting)[2]
            self._due.setdefault(target.audience.tenant, deque()).append(target)
        if waiting:
            self._arm(waiting[0][0], now_ms)
        self._pump()

    def _pump(self) -> None:
        if (self._due or self._changed) and not self._pumping and not self._stopped:
            self._pumping = True
            self._runner.loop.call_soon(self._send_due)

    def _send_due(self) -> None:
        """Begins signals that are due, tenants in turn, until the bounds are reached."""
        self._pumping = False
        if self._stopped:
            return
        if self._changed:
            self._look()
        full: list[tuple[str, deque[Target]]] = []
        for _ in range(TARGETS_PER_TURN):
            if not self._due or self._in_flight_total >= IN_FLIGHT_MAX:
                break
            tenant, targets = self._due.popitem(last=False)
            if self._in_flight[tenant] >= IN_FLIGHT_PER_TENANT_MAX:
                full.append((tenant, targets))
                continue
            self._send(targets.popleft())
            if targets:
                self._due[tenant] = targets
        is_left = bool(self._due)
        for tenant, targets in full:
            self._due[tenant] = targets
        if is_left and self._in_flight_total < IN_FLIGHT_MAX:
            self._pump()

    def _send(self, target: Target) -> None:
        """Sends a pending signal, or schedules it anew if it cannot be sent now."""
        if target.members:
            self._refresh(target.audience)
        if not target.members:
            self._settle(target)
            return
        now_ms = self._runner.mono_ms()
        member = target.choose(now_ms)
        subscription, sender = member.subscription, self.outgoing.sender
        url = subscription.wanted.url
        if member.next_ms > now_ms:
            self._schedule(target, member.next_ms, now_ms)
            return
        if sender.limited(url):
            self._note(RATE_LIMITED)
            self._settle(target)
            return
        if member.posting:
            member.blocked = target
            return
        wait_ms = sender.busy(url)
        is_suspect = subscription.id in self._suspects
        if is_suspect and self._suspects_in_flight >= SUSPECTS_MAX:
            wait_ms = max(wait_ms, SUSPECT_WAIT_MS)
        if wait_ms:
            self._schedule(target, now_ms + wait_ms, now_ms)
            return
        member.posting = True
        target.sent_to(member)
        self._settle(target)
        self._post(member, target.audience, is_suspect=is_suspect)
        # Counts from now: `sentAt` may be later than the beginning of this call if other processes ran meanwhile.
        member.next_ms = self._runner.mono_ms() + subscription.wanted.interval_ms

    # -- requests --------------------------------------------------------------------------------------------------

    def _post(self, member: Member, audience: Audience, *, is_suspect: bool) -> None:
        subscription, tenant = member.subscription, audience.tenant
        number = f"ntf-{subscription.id}-{self._runner.shard.epoch}-{next(self._numbers)}"
        seconds = self._runner.unix_seconds()
        body = _body(audience, number, seconds)
        url = subscription.wanted.url
        secrets = self.outgoing.secrets_for(self._runner.shard.endpoints, tenant, url)
        headers = signing.headers(secrets, number, int(seconds), body)
        self._in_flight[tenant] += 1
        self._in_flight_total += 1
        self._suspects_in_flight += is_suspect

        def ended(request: asyncio.Task[Answer]) -> None:
            member.posting = False
            if member.blocked is not None:
                self._schedule(member.blocked, 0, 0)
                member.blocked = None
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]
            self._in_flight_total -= 1
            self._suspects_in_flight -= is_suspect
            if not request.cancelled():
                self._judge(subscription, request.result())
            self._pump()

        self.outgoing.sender.post(url, body, headers).add_done_callback(ended)

    def _judge(self, subscription: Subscription, answer: Answer) -> None:
        self._note(DELIVERED if answer.is_success else FAILED)
        if answer.is_success:
            self._suspects.discard(subscription.id)
        elif not self._stopped:
            self._suspects.add(subscription.id)
            if answer.status == _GONE:
                self._end(subscription)
        if len(self._suspects) > 2 * self._subscriptions.count + SUSPECTS_MAX:
            live = {id for there in self._subscriptions.by_tenant.values() for id in there}  # noqa: A001
            self._suspects &= live

    def _end(self, subscription: Subscription) -> None:
        """Ends a subscription whose receiver says that it is gone."""
        try:
            self._runner.now()
        except Rejection:
            return  # the leadership is over, or the server stops
        unsubscribe(self._runner.shard, subscription)
        self._runner.changed()

    def _note(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


def _body(audience: Audience, notification: str, seconds: float) -> bytes:
    signal = {
        "eventType": audience.command,
        "available": audience.ready > 0,
        "queueDepth": audience.ready,
        "claimUrl": CLAIM_URL,
        "sentAt": rfc3339(int(seconds * 1000)),
        "notificationId": notification,
        "tenantId": audience.tenant,
    }
    return json.dumps(signal, separators=(",", ":")).encode()
