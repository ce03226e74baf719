"""A create that a thread has begun, and whose results it takes later."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from typing import Final

from codeq import settling
from codeq.errors import CodeqError, OutcomeUnknown
from codeq.in_flight import InFlight
from codeq.metrics import SafeMetrics
from codeq.producer_attempts import Attempts, Item
from codeq.producer_frames import Job, Result
from codeq.streams import Inbox

GRACE_SECONDS: Final = 0.5
"""Extra time to wait for the shared thread, which enforces a call's timeout itself."""

_Answers = concurrent.futures.Future[list[Result]]


class Begun:
    """Tasks on their way to the server. Either `results` or `future` is called, and once."""

    __slots__ = ("_answers", "_attempts", "_begun_at", "_deadline", "_in_flight", "_inbox", "_metrics")

    def __init__(
        self,
        items: Sequence[Item],
        inbox: Inbox[Job],
        in_flight: InFlight,
        metrics: SafeMetrics | None,
        begun_at: float,
        deadline: float,
    ) -> None:
        """Sends tasks.

        Args:
            items: The tasks; there is room for them in `in_flight`, which is given back with the first answer.
            inbox: Of the stream.
            in_flight: Counts the tasks.
            metrics: Is told of the results.
            begun_at: Time on the monotonic clock at which the caller began.
            deadline: Time on the monotonic clock at which the caller stops waiting.
        """
        self._attempts = Attempts(items)
        self._inbox = inbox
        self._in_flight = in_flight
        self._metrics = metrics
        self._begun_at = begun_at
        self._deadline = deadline
        self._answers: _Answers = concurrent.futures.Future()
        count = len(items)
        self._answers.add_done_callback(lambda _: in_flight.leave(count))
        inbox.put(Job(self._attempts.waiting, self._answers, deadline))

    @classmethod
    def done(cls, results: list[Result]) -> Finished:
        """Returns a create that has its results already."""
        return Finished(results)

    @property
    def is_done(self) -> bool:
        """Whether `results` returns at once, or nearly."""
        return self._answers.done()

    def results(self) -> list[Result]:
        """Waits for the results, in the order of the tasks; retries those whose answer was lost."""
        attempts = self._attempts
        attempts.note(_waited(self._answers, self._deadline, len(attempts.waiting)), may_repeat=self._has_time())
        while attempts.waiting:
            self._send_again()
            attempts.note(_waited(self._answers, self._deadline, len(attempts.waiting)), may_repeat=self._has_time())
        self._tell()
        return attempts.results

    def future(self) -> concurrent.futures.Future[str]:
        """Returns the future of the only task's id."""
        told: concurrent.futures.Future[str] = concurrent.futures.Future()
        told.set_running_or_notify_cancel()  # what is on its way cannot be cancelled
        self._answers.add_done_callback(lambda _: self._go_on(told))
        return told

    def _go_on(self, told: concurrent.futures.Future[str]) -> None:
        """Handles the answer of an attempt; runs on the shared thread."""
        self._attempts.note(self._answers.result(), may_repeat=self._has_time())
        if self._attempts.waiting:
            self._send_again()
            self._answers.add_done_callback(lambda _: self._go_on(told))
        else:
            settling.settle(lambda: self._settle(told))

    def _settle(self, told: concurrent.futures.Future[str]) -> None:
        self._tell()
        [result] = self._attempts.results
        if isinstance(result, CodeqError):
            told.set_exception(result)
        else:
            told.set_result(result)

    def _send_again(self) -> None:
        self._answers = concurrent.futures.Future()
        self._inbox.put(Job(self._attempts.waiting, self._answers, self._deadline))

    def _has_time(self) -> bool:
        return time.monotonic() < self._deadline

    def _tell(self) -> None:
        if self._metrics is not None:
            self._metrics.created(self._attempts.results, time.monotonic() - self._begun_at)


class Finished(Begun):
    """A create that has its results already."""

    __slots__ = ("_results",)

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    @property
    def is_done(self) -> bool:
        """Always true."""
        return True

    def results(self) -> list[Result]:
        """Returns the results."""
        return self._results

    def future(self) -> concurrent.futures.Future[str]:
        """Returns the ended future of the only task's id."""
        told: concurrent.futures.Future[str] = concurrent.futures.Future()
        [result] = self._results
        if isinstance(result, CodeqError):
            told.set_exception(result)
        else:
            told.set_result(result)
        return told


def is_done(begun: Begun | CodeqError) -> bool:
    """Returns whether the result of a begun create, or of one that could not begin, can be taken at once."""
    return isinstance(begun, CodeqError) or begun.is_done


def result_of(begun: Begun | CodeqError) -> Result:
    """Returns the result of a begun create of one task, or of one that could not begin."""
    return begun if isinstance(begun, CodeqError) else begun.results()[0]


def _waited(answers: _Answers, deadline: float, count: int) -> list[Result]:
    """Returns the answers of the stream, which enforces the deadline itself; OutcomeUnknown if its thread is stuck."""
    try:
        return answers.result(max(0.0, deadline - time.monotonic()) + GRACE_SECONDS)
    except concurrent.futures.TimeoutError:
        return [OutcomeUnknown("not answered within the timeout: the SDK's thread is stuck") for _ in range(count)]
