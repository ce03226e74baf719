"""Counts and times of tasks for metrics, taken from what decisions know anyway.

The counts are those that queues keep; metrics read them when they are scraped. Times are counted only for queues whose
meter has histograms. The waits of the tasks that a claim takes from a lane are counted together: they lie in the order
of their acceptance, so a few of them tell the buckets of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from .deliveries import Claim
from .durations import Durations, TaskTimes, bucket_of
from .model import Queue, TaskKey
from .parsing import UNREADABLE
from .task_bytes import created_ms_of


def totals_of(queue: Queue) -> tuple[int, ...]:
    """Returns a queue's totals, of which none ever decreases.

    They are: tasks created, deliveries, tasks completed, FAILED, DLQ and CANCELLED, leases expired.
    """
    meter = queue.meter
    return (
        queue.created_total,
        queue.delivered_total,
        queue.completed_total,
        queue.failed_total + meter.forgiven,
        meter.dead,
        meter.cancelled,
        meter.lapsed,
    )


def note_taken(
    times: TaskTimes, claim: Claim, queue: Queue, taken: Sequence[tuple[TaskKey, bytes, int]], now_ms: int
) -> None:
    """Counts the waits of tasks that a claim takes from a queue, in the order of their acceptance.

    Tasks in `claim.again` may have been delivered or delayed before, and do not count.

    Args:
        times: The histograms.
        claim: The claim.
        queue: The queue.
        taken: Key, task bytes and attempts of each task.
        now_ms: Time of the claim in Unix milliseconds.
    """
    again = claim.again
    if again:
        taken = [each for each in taken if each[0] not in again]
    if not taken:
        return
    try:
        first_ms = created_ms_of(taken[0][1])
        born = claim.born
        if born is None:
            born = claim.born = {}
        born[queue] = min(first_ms, born.get(queue, first_ms))
        _note_waits(times.waits, taken, now_ms, first_ms)
    except UNREADABLE:
        return  # the worker gets what is stored; a decision does not fail halfway for the sake of metrics


def note_again(claim: Claim, task_id: TaskKey, raw: bytes) -> None:
    """Notes when a task was accepted that is in `claim.again`."""
    if claim.born is None:
        claim.born = {}
    try:
        claim.born[task_id] = created_ms_of(raw)
    except UNREADABLE:
        return  # see above


def note_completed(times: TaskTimes, claim: Claim, queue: Queue, task_id: TaskKey, now_ms: int) -> None:
    """Counts the latency of a completed task.

    Tasks that a claim took in a row count with the acceptance of the oldest. Tasks whose claim was not metered, because
    it is older than the histograms or this opening of the shard, do not count.
    """
    born = claim.born
    if born is None:
        return
    created_ms = born.get(task_id) if claim.again else None
    if created_ms is None:
        created_ms = born.get(queue)
    if created_ms is None:
        return
    age_ms = max(0, now_ms - created_ms)
    times.latencies.note(age_ms)
    if not claim.again:
        claim.aged, claim.age_ms, claim.age_bucket = queue, age_ms, bucket_of(age_ms)


def _note_waits(waits: Durations, taken: Sequence[tuple[TaskKey, bytes, int]], now_ms: int, first_ms: int) -> None:
    start, end = 0, len(taken) - 1
    longest = max(0, now_ms - first_ms)
    last = longest if not end else max(0, now_ms - created_ms_of(taken[end][1]))
    while True:
        bits = longest.bit_length()
        stop, shortest = end, last
        if last.bit_length() != bits:
            # Tasks from `low` back are in the bucket of the first, tasks from `high` on are not.
            low, high, shortest = start, end, longest
            while high - low > 1:
                middle = (low + high) // 2
                wait = max(0, now_ms - created_ms_of(taken[middle][1]))
                if wait.bit_length() == bits:
                    low, shortest = middle, wait
                else:
                    high = middle
            stop = low
        waits.note_run(longest, shortest, stop - start + 1)
        start = stop + 1
        if start > end:
            return
        longest = max(0, now_ms - created_ms_of(taken[start][1]))
