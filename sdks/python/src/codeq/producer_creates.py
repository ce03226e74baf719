"""The creates of a producer on their way, and the streams that take them in turn. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, Protocol

from codeq import errors
from codeq.producer_frames import Frame, Job, Pending

_SWEEP_SECONDS_MIN: Final = 0.01
"""Minimum interval between scans for jobs past their deadline."""


class Taker(Protocol):
    """An open stream."""

    @property
    def has_room(self) -> bool:
        """Whether it can take what is pending."""

    def wake(self) -> None:
        """Makes the stream take what is pending."""

    def jobs(self) -> Iterator[Job]:
        """Yields the jobs that were sent over the stream and are not answered."""


class Creates:
    """Jobs that are pending, in no frame yet, and those in frames of open streams.

    Attributes:
        is_closing: Whether no more jobs are accepted.
        trouble: Why the last attempt to open the first stream failed; empty: it succeeded.
    """

    def __init__(self) -> None:
        self.is_closing = False
        self.trouble = ""
        self._pending = Pending()
        self._streams: list[Taker] = []
        self._turn = 0
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._change = asyncio.Event()

    def __bool__(self) -> bool:
        """Returns whether a job is pending."""
        return bool(self._pending)

    def submit(self, job: Job) -> None:
        """Queues a job with at least one item; it ends by its deadline."""
        if self.is_closing:
            job.fail(closed, closed)
            return
        is_announced = bool(self._pending)
        self._pending.add(job)
        if self._sweep is None:
            self._sweep = self._loop.call_at(job.deadline, self._expire)
        elif job.deadline < self._sweep.when():
            self._sweep.cancel()
            self._sweep = self._loop.call_at(job.deadline, self._expire)
        if not is_announced:
            self.announce()

    def announce(self) -> None:
        """Wakes one of the open streams that have room, each in turn, and whoever waits for a change."""
        self._change.set()
        streams = [stream for stream in self._streams if stream.has_room]
        if streams:
            self._turn += 1
            streams[self._turn % len(streams)].wake()

    def cut(self, tasks_max: int, bytes_max: int) -> Frame | None:
        """Returns the next frame; None if nothing is pending or the next task exceeds bytes_max."""
        return self._pending.cut(tasks_max, bytes_max)

    def enter(self, stream: Taker) -> None:
        """Adds an open stream."""
        self._streams.append(stream)

    def leave(self, stream: Taker) -> None:
        """Removes a stream that has ended; others take what is pending."""
        self._streams.remove(stream)
        if self._pending:
            self.announce()

    def refuse(self) -> None:
        """Stops accepting jobs; later jobs fail with Closed."""
        self.is_closing = True
        self._change.set()
        for stream in self._streams:
            stream.wake()

    async def changed(self) -> None:
        """Waits for something new: a job, or the end of the producer."""
        self._change.clear()
        await self._change.wait()

    def last_deadline(self) -> float:
        """Returns the latest deadline of a job; without a job, the current time."""
        return max((job.deadline for job in self._jobs() if not job.done), default=self._loop.time())

    def fail(self, error: errors.CodeqError) -> None:
        """Ends what is pending."""
        for job in self._pending:
            job.fail(error.again, unanswered)

    def end(self) -> None:
        """Ends what is pending, and every later job, as the producer is closed."""
        self.is_closing = True
        self.fail(closed())
        if self._sweep is not None:
            self._sweep.cancel()

    def _jobs(self) -> Iterator[Job]:
        yield from self._pending
        for stream in self._streams:
            yield from stream.jobs()

    def _expire(self) -> None:
        """Ends the jobs whose deadline has passed, and sets the timer to the next deadline."""
        now = self._loop.time()
        following: float | None = None
        for job in self._jobs():
            if job.done:
                continue
            if job.deadline <= now:
                job.fail(self._unsent, unanswered)
            elif following is None or job.deadline < following:
                following = job.deadline
        when = None if following is None else max(following, now + _SWEEP_SECONDS_MIN)
        self._sweep = None if when is None else self._loop.call_at(when, self._expire)

    def _unsent(self) -> errors.CodeqError:
        why = f": {self.trouble}" if self.trouble else ""
        return errors.DeadlineExceeded(f"not sent within the timeout{why}")


def closed() -> errors.CodeqError:
    """Returns the error of a create that a closed producer refuses."""
    return errors.Closed("the producer is closed")


def unanswered() -> errors.CodeqError:
    """Returns the error of a create whose answer did not arrive in time."""
    return errors.OutcomeUnknown("sent, but not answered within the timeout")
