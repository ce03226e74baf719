"""Packs creates into frames and routes the answers back to their callers. Pure; no I/O."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from codeq import errors, received_errors
from codeq.v1 import producer_service_pb2

Result = str | errors.CodeqError
"""Id of a created task, or why it was not created."""

Future = asyncio.Future[list[Result]] | concurrent.futures.Future[list[Result]]


class Job:
    """Tasks that one caller waits for. Owned by the stream's loop once it is submitted.

    Attributes:
        items: Encoded tasks, each a ProduceRequest with one task; concatenated they form one request with all of them.
        deadline: Time of the stream's loop at which the caller stops waiting.
        taken: Number of items that are in a frame.
    """

    __slots__ = ("_future", "_missing", "_results", "deadline", "items", "taken")

    def __init__(self, items: Sequence[bytes], future: Future, deadline: float) -> None:
        self.items = items
        self.deadline = deadline
        self.taken = 0
        self._future = future
        self._missing = len(items)
        self._results: list[Result | None] = [None] * len(items)

    @property
    def done(self) -> bool:
        """Whether the caller no longer waits: answered, timed out or cancelled."""
        return self._future.done()

    def resolve(self, start: int, results: Sequence[Result]) -> None:
        """Records the answers of a run of items; the last one wakes the caller."""
        self._results[start : start + len(results)] = results
        self._missing -= len(results)
        if not self._missing:
            self._finish()

    def fail(self, untaken: Callable[[], errors.CodeqError], taken: Callable[[], errors.CodeqError]) -> None:
        """Ends the job now; unsent items fail with `untaken`, and items sent but not answered fail with `taken`."""
        for index, result in enumerate(self._results):
            if result is None:
                self._results[index] = untaken() if index >= self.taken else taken()
        self._finish()

    def _finish(self) -> None:
        if not self._future.done():
            self._future.set_result([result for result in self._results if result is not None])


@dataclass(frozen=True, slots=True)
class Part:
    """A run of a job's items in a frame."""

    job: Job
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Frame:
    """An encoded frame.

    Attributes:
        data: An encoded ProduceRequest.
        parts: The runs of items that it carries, in order.
        tasks: Number of tasks.
    """

    data: bytes
    parts: tuple[Part, ...]
    tasks: int

    def resolve(self, ack: producer_service_pb2.FrameAck) -> None:
        """Passes the answers of the frame to its jobs.

        Raises:
            ServerFault: The ack does not fit the frame.
        """
        results: list[Result] = list(ack.task_ids)
        if len(results) != self.tasks:
            raise errors.ServerFault(f"ack of {len(results)} tasks for a frame of {self.tasks}")
        for error in ack.errors:
            if error.index >= self.tasks:
                raise errors.ServerFault(f"ack with an error of item {error.index} for a frame of {self.tasks}")
            results[error.index] = received_errors.from_item(error)
        if len(self.parts) == len(results):  # one task per part
            for part, result in zip(self.parts, results, strict=True):
                part.job.resolve(part.start, (result,))
            return
        offset = 0
        for part in self.parts:
            part.job.resolve(part.start, results[offset : offset + part.count])
            offset += part.count

    def fail(self, error: Callable[[], errors.CodeqError]) -> None:
        """Fails every task of the frame."""
        for part in self.parts:
            part.job.resolve(part.start, [error() for _ in range(part.count)])


class Pending:
    """FIFO queue of jobs with items that are in no frame yet. Bounded by the number of waiting callers."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __bool__(self) -> bool:
        while self._jobs and self._jobs[0].done:
            self._jobs.popleft()
        return bool(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job) -> None:
        """Adds a job with at least one item."""
        self._jobs.append(job)

    def cut(self, tasks_max: int, bytes_max: int) -> Frame | None:
        """Returns the next frame; None if nothing waits or the next item exceeds bytes_max."""
        chunks: list[bytes] = []
        parts: list[Part] = []
        size = 0
        room = tasks_max
        while room and self:
            job = self._jobs[0]
            start = stop = job.taken
            end = min(len(job.items), start + room)
            while stop < end and size + len(job.items[stop]) <= bytes_max:
                size += len(job.items[stop])
                stop += 1
            if stop > start:
                chunks.extend(job.items[start:stop])
                parts.append(Part(job, start, stop - start))
                job.taken = stop
                room -= stop - start
            if stop < len(job.items):
                break
            self._jobs.popleft()
        return Frame(b"".join(chunks), tuple(parts), len(chunks)) if parts else None
