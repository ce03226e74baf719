"""Durations counted in buckets that are powers of two: counting one costs an addition and needs no search."""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 36
"""Number of buckets; the last one also counts everything longer than 9 hours in microseconds, or a year in
milliseconds."""

NOTHING_SEEN: Final = (0,) * 7
"""The totals of a new queue; see `metering.totals_of`."""


def bucket_of(ticks: int) -> int:
    """Returns the bucket of a duration that is not negative."""
    return min(ticks.bit_length(), BUCKETS - 1)


class Durations:
    """A histogram of durations in whole ticks, such as milliseconds.

    Attributes:
        buckets: Counts of the durations by their length in bits: bucket n counts those below 2**n ticks that are in no
            bucket before it.
        total: Sum of the durations in ticks.
    """

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.total = 0

    def note(self, ticks: int) -> None:
        """Counts one duration; a negative one counts as 0."""
        ticks = max(ticks, 0)
        self.buckets[bucket_of(ticks)] += 1
        self.total += ticks

    def note_again(self, bucket: int, ticks: int) -> None:
        """Counts another duration of this length, which is not negative, and whose bucket is known."""
        self.buckets[bucket] += 1
        self.total += ticks

    def note_run(self, longest: int, shortest: int, count: int) -> None:
        """Counts `count` durations that share a bucket and lie about evenly between two durations."""
        self.buckets[bucket_of(longest)] += count
        self.total += (longest + shortest) * count // 2

    @property
    def count(self) -> int:
        """Number of durations."""
        return sum(self.buckets)


class TaskTimes:
    """Times of the tasks of a command, in milliseconds.

    Attributes:
        waits: From acceptance to the first delivery, of tasks that were not delayed.
        latencies: From acceptance to completion.
    """

    __slots__ = ("latencies", "waits")

    def __init__(self) -> None:
        self.waits = Durations()
        self.latencies = Durations()


class Meter:
    """A queue's counts that are only for metrics; kept in memory only.

    Attributes:
        times: Histograms that take the times of the queue's tasks; None: nobody asks for them.
        dead: Tasks that went to the dead-letter queue.
        cancelled: Tasks that ended as CANCELLED.
        lapsed: Leases that expired.
        forgiven: FAILED tasks that were redriven, and so left the queue's total.
        seen: The queue's totals when metrics last read them, or when the shard was opened.
    """

    __slots__ = ("cancelled", "dead", "forgiven", "lapsed", "seen", "times")

    def __init__(self) -> None:
        self.times: TaskTimes | None = None
        self.dead = self.cancelled = self.lapsed = self.forgiven = 0
        self.seen: tuple[int, ...] = NOTHING_SEEN
