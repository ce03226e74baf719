"""Counts, depths and times of tasks by command, read from the queues when metrics are scraped.

Clients choose commands, so the number of series is bounded: the busiest commands have series of their own, and all
others share one. Which ones are the busiest is decided anew from time to time. What a queue did since the last scrape
is added to the series that its command has now, so no series ever decreases while it exists.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from heapq import nlargest
from time import monotonic
from typing import Final

from codeq_server.core.durations import TaskTimes
from codeq_server.core.errors import CorruptRows
from codeq_server.core.metering import totals_of
from codeq_server.core.model import Queue
from codeq_server.core.reads import oldest_created_ms
from codeq_server.engine.runner import ShardRunner

SERIES_MAX: Final = 100
"""Maximum number of commands with series of their own."""
TENANT_SERIES_MAX: Final = 1000
"""The same for commands of tenants, if series have the label `tenant`."""
OTHER: Final = "_other"
"""Label of all other commands; no command begins with an underscore."""
RANK_SECONDS: Final = 60.0
"""Time after which the busiest commands are determined anew."""
STAY: Final = 2
"""A command without series takes those of another only if it is more than this many times as busy."""
SLICE_QUEUES: Final = 500
"""Queues read in one turn of the event loop; takes a millisecond or two."""
HEADS_MAX: Final = 1000
"""Maximum number of queues per scrape whose oldest task is looked up: its row may have to be read."""

CREATED, CLAIMED, COMPLETED, FAILED, DEAD, CANCELLED, LAPSED = range(7)
"""Indices of the totals in `Series.counts`; see `metering.totals_of`."""

Label = tuple[str, ...]


class Series:
    """The values of one command, or of all that share one.

    Attributes:
        counts: What its queues did, in the order of `metering.totals_of`.
        times: Histograms of its tasks.
        ready: PENDING tasks.
        delayed: SCHEDULED tasks.
        in_progress: CLAIMED tasks.
        dlq: Tasks in dead-letter queues.
        oldest_ms: Age of the oldest waiting task; 0: none waits.
    """

    __slots__ = ("counts", "delayed", "dlq", "in_progress", "oldest_ms", "queues", "ready", "times")

    def __init__(self) -> None:
        self.counts = [0] * 7
        self.times = TaskTimes()
        self.ready = self.delayed = self.in_progress = self.dlq = self.oldest_ms = 0
        self.queues = 0
        """Number of queues that the last scrape found."""


class _Reading:
    """The state of the queues of one series, as far as a scrape has read them."""

    __slots__ = ("delayed", "dlq", "in_progress", "oldest_ms", "queues", "ready")

    def __init__(self) -> None:
        self.ready = self.delayed = self.in_progress = self.dlq = self.oldest_ms = self.queues = 0


class CommandSeries:
    """The series of a shard's commands.

    Args:
        runner: Runner of the shard.
        by_tenant: Whether series also have the label `tenant`.
        series_max: Maximum number of series besides the shared one.
        clock: Returns seconds that never run backwards.

    Attributes:
        folded: Number of commands that share a series.
    """

    def __init__(
        self,
        runner: ShardRunner,
        *,
        by_tenant: bool = False,
        series_max: int = SERIES_MAX,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._runner = runner
        self._by_tenant = by_tenant
        self._series_max = series_max
        self._clock = clock
        self._shown: dict[Label, Series] = {}
        self._other = Series()
        self.folded = 0
        self._uses: Counter[Label] = Counter()
        """Creates, deliveries and completions of each command since the last ranking."""
        self._ranked_at = clock()
        self._walk: asyncio.Task[None] | None = None

    @property
    def labels(self) -> Label:
        """Names of the labels of each series."""
        return ("tenant", "command") if self._by_tenant else ("command",)

    def __iter__(self) -> Iterator[tuple[Label, Series]]:
        """Yields every series with its labels, as of the last refresh; the shared one comes last."""
        yield from sorted(self._shown.items())
        yield (OTHER,) * len(self.labels), self._other

    async def refresh(self) -> None:
        """Reads all queues, in slices; callers at the same time share one reading."""
        if self._walk is None or self._walk.done():
            self._walk = asyncio.get_running_loop().create_task(self._read_all(), name="metrics")
        await asyncio.shield(self._walk)

    async def _read_all(self) -> None:
        if self._clock() - self._ranked_at >= RANK_SECONDS:
            self._rank()
        shard = self._runner.shard
        shard.times = self._other.times
        now_ms = round(self._runner.unix_seconds() * 1000)
        readings: dict[Label, _Reading] = {}
        folded: set[Label] = set()
        rest, heads = _Reading(), HEADS_MAX
        for number, queue in enumerate(list(shard.queues.values()), 1):
            label: Label = (queue.tenant, queue.command) if self._by_tenant else (queue.command,)
            series = self._series_of(label)
            reading = rest
            if series is self._other:
                folded.add(label)
            else:
                reading = readings.setdefault(label, _Reading())
            self._count(queue, label, series)
            ready = _add(reading, queue)
            if ready and heads:
                heads -= 1
                reading.oldest_ms = max(reading.oldest_ms, self._age_ms(queue, now_ms))
            if not number % SLICE_QUEUES:
                await asyncio.sleep(0)
        self._shown = {label: series for label, series in self._shown.items() if label in readings}
        for label, reading in readings.items():
            _take(self._shown[label], reading)
        _take(self._other, rest)
        self.folded = len(folded)

    def _series_of(self, label: Label) -> Series:
        series = self._shown.get(label)
        if series is None:
            if len(self._shown) >= self._series_max:
                return self._other
            series = self._shown[label] = Series()
        return series

    def _count(self, queue: Queue, label: Label, series: Series) -> None:
        """Adds what a queue did since the last scrape, and lets its further times count in the same series."""
        meter, totals = queue.meter, totals_of(queue)
        meter.times = series.times
        seen = meter.seen
        if totals == seen:
            return
        meter.seen = totals
        counts = series.counts
        for index, total in enumerate(totals):
            counts[index] += total - seen[index]
        used = sum(totals[: COMPLETED + 1]) - sum(seen[: COMPLETED + 1])
        if used:
            self._uses[label] += used

    def _age_ms(self, queue: Queue, now_ms: int) -> int:
        try:
            created_ms = oldest_created_ms(self._runner.shard, queue)
        except CorruptRows:
            return 0  # a claim of the task reports the corruption, and a scrape does not
        return 0 if created_ms is None else max(0, now_ms - created_ms)

    def _rank(self) -> None:
        """Gives series to the commands that were the busiest since the last ranking."""
        uses, shown = self._uses, self._shown
        self._uses, self._ranked_at = Counter(), self._clock()
        if len(shown) < self._series_max:
            return
        scores: dict[Label, int] = {label: uses[label] * STAY + 1 for label in shown}
        for label, used in uses.items():
            scores.setdefault(label, used)
        kept = nlargest(self._series_max, scores, key=scores.__getitem__)
        self._shown = {label: shown.get(label) or Series() for label in kept}


def _add(reading: _Reading, queue: Queue) -> int:
    """Adds the depths of a queue; returns how many tasks are ready."""
    ready = queue.ready
    reading.queues += 1
    reading.ready += ready
    reading.delayed += queue.scheduled
    reading.in_progress += queue.claimed
    reading.dlq += queue.dlq
    return ready


def _take(series: Series, reading: _Reading) -> None:
    """Makes what a scrape has read the values of a series."""
    series.queues, series.oldest_ms = reading.queues, reading.oldest_ms
    series.ready, series.delayed = reading.ready, reading.delayed
    series.in_progress, series.dlq = reading.in_progress, reading.dlq
