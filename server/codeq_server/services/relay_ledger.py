"""The outcomes of a worker's stream over several shards, reported in the order in which the client sent them."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable

from codeq.v1 import error_pb2
from codeq.v1 import worker_service_pb2 as pb


class Ledger:
    """Outcomes that are not reported yet.

    A shard settles its outcomes in order and numbers them from 1 for each link to it. The client hears of an outcome
    once all those before it are settled, too.

    Args:
        shards: Number of shards.
    """

    def __init__(self, shards: int) -> None:
        self._order: deque[int] = deque()
        """Shard of each outcome that is not reported."""
        self._open: list[deque[tuple[int, str]]] = [deque() for _ in range(shards)]
        """Number and task of each outcome that is not settled, by shard."""
        self._settled = [0] * shards
        """Outcomes that each shard has settled over its present link."""
        self._unreported = [0] * shards
        """Outcomes of each shard that are settled, but not reported."""
        self._errors: list[tuple[int, pb.OutcomeError]] = []
        """Heap of the errors that are not reported."""
        self._number = 0
        self._reported = 0

    def __len__(self) -> int:
        """Returns the number of outcomes that are not reported."""
        return len(self._order)

    def add(self, shard: int, task_id: str) -> None:
        """Adds the client's next outcome."""
        self._number += 1
        self._order.append(shard)
        self._open[shard].append((self._number, task_id[:64]))

    def settle(self, shard: int, count: int, errors: Iterable[pb.OutcomeError]) -> None:
        """Notes that a shard has settled its next `count` outcomes, of which some have errors."""
        unsettled, first = self._open[shard], self._settled[shard] + 1
        numbers = [unsettled.popleft()[0] for _ in range(count)]
        self._settled[shard] += count
        self._unreported[shard] += count
        for error in errors:
            number = numbers[error.number - first]
            told = pb.OutcomeError(number=number, task_id=error.task_id, reason=error.reason, message=error.message)
            heapq.heappush(self._errors, (number, told))

    def lose(self, shard: int, unsent: int, reason: str, *, keep: bool) -> None:
        """Answers the outcomes of a shard whose link has ended; the next link numbers them from 1 again.

        Args:
            shard: The shard.
            unsent: Number of its last outcomes that were not sent to it.
            reason: Why the link has ended.
            keep: Whether those are sent over the next link, and so have no answer yet.
        """
        unsettled = self._open[shard]
        sent = len(unsettled) - unsent
        for index in range(sent if keep else len(unsettled)):
            number, task_id = unsettled.popleft()
            why, text = error_pb2.ERROR_REASON_SERVER_UNREACHABLE, f"shard {shard} is unreachable: {reason}"
            if index < sent:
                why, text = error_pb2.ERROR_REASON_OUTCOME_UNKNOWN, f"shard {shard} did not answer: {reason}"
            told = pb.OutcomeError(number=number, task_id=task_id, reason=why, message=text)
            heapq.heappush(self._errors, (number, told))
            self._unreported[shard] += 1
        self._settled[shard] = 0

    def report(self, answer: pb.WorkResponse) -> bool:
        """Adds what the client may hear to an answer; returns whether there is anything."""
        order, unreported = self._order, self._unreported
        count = 0
        while order and unreported[order[0]]:
            unreported[order.popleft()] -= 1
            count += 1
        if not count:
            return False
        self._reported += count
        answer.settled = count
        while self._errors and self._errors[0][0] <= self._reported:
            answer.outcome_errors.append(heapq.heappop(self._errors)[1])
        return True
