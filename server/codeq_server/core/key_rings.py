"""The keys in use in a queue, in memory: slots of concurrency keys, tokens of rate keys, and who waits at which gate.

Everything here is a cache. Slots follow from lease rows and from the index of returned tasks, waiting tasks are rows
"b"; buckets are full after a restart. Ordering keys need no memory: their lines are rows; see `ordering`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from enum import Enum
from typing import Final, NamedTuple

from .alarms import NEVER

FIRST: Final = 1 << 40
"""Number of the first task that waits at a gate; lower numbers let a task wait ahead of others."""
UNIT: Final = 1_000_000
"""Units of a bucket that a delivery takes; at a rate of n a second, 1000 n units flow back in a millisecond."""
BUCKETS_MAX = 100_000
"""Number of rate keys of a queue with a bucket of their own; beyond it, the least recently used is forgotten."""


class AtLimit(Enum):
    """What happens to a task that a claim meets while its concurrency key is at its limit."""

    WAIT = "wait"
    """It waits for the key."""
    CANCEL_RUNNING = "cancel_running"
    """The task with the key that was leased first is cancelled in its favour."""
    DROP_NEWEST = "drop_newest"
    """It ends as CANCELLED."""


class KeyPolicy(NamedTuple):
    """Limits of a queue; 0: no limit.

    Attributes:
        concurrency_per_key: Tasks with the same concurrency key that are leased at a time.
        rate_per_second: Deliveries of the queue per second, on average.
        rate_burst: Deliveries at once, of the queue and of a rate key, after a pause; 0: one second's worth.
        rate_per_key_per_second: Deliveries of tasks with the same rate key per second, on average.
        at_limit: What happens at the limit of a concurrency key.
    """

    concurrency_per_key: int = 0
    rate_per_second: float = 0
    rate_burst: int = 0
    rate_per_key_per_second: float = 0
    at_limit: AtLimit = AtLimit.WAIT


NO_KEY_POLICY: Final = KeyPolicy()


class Bucket:
    """A token bucket, full at first; the caller passes the monotonic time."""

    __slots__ = ("_at_ms", "_level")

    def __init__(self) -> None:
        self._level = -1
        self._at_ms = 0

    def wait_ms(self, per_second: float, burst: int, now_ms: int) -> int:
        """Returns the milliseconds until a token is there; 0: there is one now."""
        flow = max(1, round(per_second * 1000))
        most = max(burst, int(per_second), 1) * UNIT if not burst else burst * UNIT
        if self._level < 0:
            self._level, self._at_ms = most, now_ms
        self._level = min(most, self._level + flow * (now_ms - self._at_ms))
        self._at_ms = now_ms
        missing = UNIT - self._level
        return 0 if missing <= 0 else -(-missing // flow)

    def take(self) -> None:
        """Takes a token that `wait_ms` has found."""
        self._level -= UNIT

    def put_back(self) -> None:
        """Gives back a token that was not used."""
        self._level += UNIT


class Gate:
    """A concurrency or a rate key that is in use: tasks with the key are leased, or wait for it.

    Attributes:
        running: Packed homes of the tasks leased; empty at a rate gate.
        reserved: Packed homes of returned tasks that hold a slot or a token.
        first: Number of the first task that waits; its row exists.
        last: Number of the last one; less than `first`: none waits.
        closed_until_ms: Monotonic time until which the gate is closed at a worker's request.
    """

    __slots__ = ("closed_until_ms", "first", "last", "open_ms", "reserved", "running")

    def __init__(self) -> None:
        self.running: dict[int, None] = {}
        self.reserved: dict[int, None] = {}
        self.first = FIRST
        self.last = FIRST - 1
        self.closed_until_ms = 0
        self.open_ms = NEVER
        """Monotonic time at which the ring lists the gate among those to open."""

    @property
    def has_waiting(self) -> bool:
        """Whether a task waits at the gate."""
        return self.first <= self.last

    @property
    def holders(self) -> int:
        """Number of slots taken."""
        return len(self.running) + len(self.reserved)

    @property
    def unused(self) -> bool:
        """Whether the gate holds nothing that memory must keep."""
        return not self.running and not self.reserved and self.first > self.last and not self.closed_until_ms


class KeyRing:
    """The keys in use in a queue.

    Attributes:
        number: Number of the queue.
        tenant: Tenant of the queue.
        keyed: Whether a task of the queue ever had a key.
        ordered: Whether a task of the queue had an ordering key since the start, or its line was there at the start.
        gates: Gates in use.
        slots: Concurrency gate of each task, by packed home, that holds a slot.
        tokens: Rate gate of each returned task, by packed home, that holds a token.
        sifting: Lanes hidden from claims until their first tasks have been sifted.
        bucket: Bucket of the queue.
        buckets: Buckets of rate keys, by gate; the most recently used one is last.
    """

    __slots__ = (
        "_due",
        "bucket",
        "buckets",
        "gates",
        "keyed",
        "number",
        "ordered",
        "sifting",
        "slots",
        "tenant",
        "tokens",
    )

    def __init__(self, number: int, tenant: str) -> None:
        self.number = number
        self.tenant = tenant
        self.keyed = False
        self.ordered = False
        self.gates: dict[bytes, Gate] = {}
        self.slots: dict[int, bytes] = {}
        self.tokens: dict[int, bytes] = {}
        self.sifting: dict[int, bool] = {}
        self.bucket = Bucket()
        self.buckets: OrderedDict[bytes, Bucket] = OrderedDict()
        self._due: list[tuple[int, bytes]] = []

    def gate(self, name: bytes) -> Gate:
        """Returns a gate, which is in use from now on."""
        gate = self.gates.get(name)
        if gate is None:
            gate = self.gates[name] = Gate()
        return gate

    def drop_unused(self, name: bytes) -> None:
        """Forgets a gate that is no longer in use."""
        gate = self.gates.get(name)
        if gate is not None and gate.unused:
            del self.gates[name]

    def bucket_of(self, name: bytes) -> Bucket:
        """Returns the bucket of a rate gate."""
        bucket = self.buckets.get(name)
        if bucket is None:
            bucket = self.buckets[name] = Bucket()
            if len(self.buckets) > BUCKETS_MAX:
                self.buckets.popitem(last=False)
        else:
            self.buckets.move_to_end(name)
        return bucket

    def open_at(self, name: bytes, at_ms: int) -> None:
        """Lists a gate that may open at a monotonic time, unless it is listed for an earlier time."""
        gate = self.gates[name]
        if at_ms < gate.open_ms:
            gate.open_ms = at_ms
            heapq.heappush(self._due, (at_ms, name))

    def open_all(self) -> bool:
        """Lists every gate at which a task waits, because limits have changed; returns whether the timers have work."""
        waiting = [name for name, gate in self.gates.items() if gate.has_waiting]
        for name in waiting:
            self.open_at(name, 0)
        return bool(waiting or self.sifting)

    def next_due(self) -> int | None:
        """Returns the monotonic time at which the next gate may open; None: no gate is listed."""
        due = self._due
        while due and self._is_stale(*due[0]):
            heapq.heappop(due)
        return due[0][0] if due else None

    def take_due(self, now_ms: int) -> bytes | None:
        """Takes the next gate that may open by now from the list; None: there is none."""
        at_ms = self.next_due()
        if at_ms is None or at_ms > now_ms:
            return None
        name = heapq.heappop(self._due)[1]
        self.gates[name].open_ms = NEVER
        return name

    def _is_stale(self, at_ms: int, name: bytes) -> bool:
        """Returns whether a gate was dropped, or is listed for another time."""
        gate = self.gates.get(name)
        return gate is None or gate.open_ms != at_ms
