"""The queues of a shard, by tenant, and its unused queues."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

from .alarms import NEVER
from .model import Queue


class Tenant:
    """The queues of a tenant, ordered by command and by number, and sums over them as of the last `count`.

    Attributes:
        commands: Commands, sorted.
        numbers: Numbers, sorted.
        waiting: Tasks that wait.
        leases: Tasks that are leased.
        stored_bytes: Bytes of payloads and results of stored tasks.
    """

    __slots__ = ("commands", "leases", "numbers", "stored_bytes", "waiting")

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.numbers: list[int] = []
        self.waiting = self.leases = self.stored_bytes = 0

    def add(self, queue: Queue) -> None:
        """Adds a queue, which was opened after all others."""
        insort(self.commands, queue.command)
        self.numbers.append(queue.number)

    def remove(self, queue: Queue) -> None:
        """Forgets an unused queue."""
        del self.commands[bisect_left(self.commands, queue.command)]
        del self.numbers[bisect_left(self.numbers, queue.number)]

    def count(self, queue: Queue) -> None:
        """Brings the sums up to date with a queue."""
        waiting, leases, stored_bytes = queue.ready + queue.scheduled, queue.claimed, queue.stored_bytes
        self.waiting += waiting - queue.counted_waiting
        self.leases += leases - queue.counted_leases
        self.stored_bytes += stored_bytes - queue.counted_bytes
        queue.counted_waiting, queue.counted_leases, queue.counted_bytes = waiting, leases, stored_bytes


class IdleQueues:
    """Unused queues, each of which is removed some time after its last task was removed.

    Attributes:
        first_ms: Monotonic milliseconds before which no queue is removed; NEVER if no queue is unused.
        since: Time since which each queue has been unused, in monotonic milliseconds; the longest unused comes first.
    """

    __slots__ = ("first_ms", "since")

    def __init__(self) -> None:
        self.first_ms = NEVER
        self.since: OrderedDict[Queue, int] = OrderedDict()

    def add(self, queue: Queue, mono_ms: int, idle_ms: int) -> None:
        """Adds a queue, which is removed after `idle_ms` unless it is used again."""
        self.since.setdefault(queue, mono_ms)
        self.first_ms = min(self.first_ms, mono_ms + idle_ms)


class Directory:
    """Data about all queues of a shard, in addition to `Shard.queues` and `Shard.by_name`.

    Attributes:
        tenants: Queues of each tenant.
        last_queue: Number of the most recently opened queue.
        idle: Unused queues.
    """

    __slots__ = ("idle", "last_queue", "tenants")

    def __init__(self) -> None:
        self.tenants: dict[str, Tenant] = {}
        self.last_queue = 0
        self.idle = IdleQueues()
