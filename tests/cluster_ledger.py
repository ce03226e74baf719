"""The ledger of a cluster's clients: the answers that they got, and the promises that follow from these answers."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

COMMANDS: Final = ("FAULTS.A", "FAULTS.B")
LEASE_SECONDS: Final = 2
SLACK_SECONDS: Final = 0.005
"""Rounding error of times on the wire."""
PROBLEMS_MAX: Final = 50
DOES: Final = {
    "plain": 36,
    "keyed": 22,
    "delayed": 10,
    "scheduled": 6,
    "nack": 8,
    "fail": 4,
    "dead": 3,
    "hold": 3,
    "cancel": 4,
    "batch": 4,
}
"""Kinds of tasks and how often each is made."""
ENDS_AS: Final = {"fail": "FAILED", "dead": "DLQ"}
"""Outcome of each kind of task; all other kinds are completed."""


@dataclass(slots=True)
class Attempt:
    """A create that was sent, at least once.

    Attributes:
        number: Unique number in the task's payload.
        kind: Kind of task; see DOES.
        due: Unix time before which the task must not be delivered.
        task_id: Acknowledged id; "": none yet.
        cancelled: State of the task's cancellation: "" (not sent), "sent" or "acknowledged".
    """

    number: int
    kind: str
    due: float = 0.0
    task_id: str = ""
    cancelled: str = ""

    def payload(self) -> bytes:
        """Returns the task's payload."""
        return json.dumps({"n": self.number, "kind": self.kind}).encode()


@dataclass(slots=True)
class Delivery:
    """A lease that a worker was given.

    Attributes:
        token: Lease token.
        start: Start of the lease by the server's clock, in Unix time.
        until: Latest promised end of the lease.
        given_up: Whether the worker sent an outcome that ends the lease but not the task.
    """

    token: int
    start: float
    until: float
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """An acknowledged outcome that ended a task."""

    token: int
    status: str
    result: bytes


@dataclass(slots=True)
class Moments:
    """Monotonic times of acknowledgments, each with the node that sent it."""

    at: list[tuple[float, str]] = field(default_factory=list)

    def note(self, address: str) -> None:
        self.at.append((time.monotonic(), address))

    def first_after(self, moment: float, *, not_by: str = "") -> float | None:
        """Returns the seconds from a moment to the next acknowledgment; None: there is none yet."""
        return next((when - moment for when, by in self._after(moment) if by != not_by), None)

    def longest_gap(self, start: float, end: float) -> float:
        """Returns the longest time without an acknowledgment between start and end."""
        times = [start, *(when for when, _ in self._after(start) if when < end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def _after(self, moment: float) -> list[tuple[float, str]]:
        index = len(self.at)
        while index and self.at[index - 1][0] >= moment:
            index -= 1
        return self.at[index:]


class Ledger:
    """Records of all clients of a run.

    Attributes:
        clocks_agree: Whether nodes and test share a clock; if not, server times are not judged.
    """

    def __init__(self, *, clocks_agree: bool = True) -> None:
        self.clocks_agree = clocks_agree
        self.attempts: dict[int, Attempt] = {}
        self.by_id: dict[str, Attempt] = {}
        self.deliveries: dict[str, list[Delivery]] = defaultdict(list)
        self.ends: dict[str, End] = {}
        self.doubled: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.creates = Moments()
        self.receipts = Moments()
        self._newest: dict[str, int] = {}

    def problem(self, text: str) -> None:
        """Records a broken promise."""
        self.counts["problems"] += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)

    def attempt(self, kind: str, due: float = 0.0) -> Attempt:
        """Returns a new create, before it is sent."""
        attempt = Attempt(len(self.attempts), kind, due)
        self.attempts[attempt.number] = attempt
        return attempt

    def created(self, attempt: Attempt, task_id: str, address: str) -> None:
        """Records an acknowledged create, which may repeat an earlier one with the same key."""
        self.creates.note(address)
        if attempt.task_id and attempt.task_id != task_id:
            self.problem(f"I5: create {attempt.number} got the ids {attempt.task_id} and {task_id}")
        other = self.by_id.setdefault(task_id, attempt)
        if other is not attempt:
            self.problem(f"I5: creates {other.number} and {attempt.number} got the same id {task_id}")
        self.counts["created"] += not attempt.task_id
        attempt.task_id = task_id

    def delivered(self, task_id: str, number: int, delivery: Delivery, address: str) -> Attempt | None:
        """Records a delivery; returns the create it belongs to, or None."""
        self.receipts.note(address)
        self.counts["delivered"] += 1
        attempt = self.attempts.get(number)
        if attempt is None:
            self.problem(f"I2: {task_id} with number {number} was delivered, and nobody tried to create it")
            return None
        if attempt.task_id and attempt.task_id != task_id:
            self.problem(f"I5: create {number} got the id {attempt.task_id}, and {task_id} was delivered")
        if self.clocks_agree and attempt.due and time.time() < attempt.due - SLACK_SECONDS:
            self.problem(f"{task_id} was delivered {attempt.due - time.time():.3f} s before it was due")
        if any(each.token == delivery.token for each in self.deliveries[task_id]):
            self.problem(f"I4: {task_id} was delivered twice with the token {delivery.token}")
        self.deliveries[task_id].append(delivery)
        self._newest[task_id] = max(self._newest.get(task_id, 0), delivery.token)
        return attempt

    def newest(self, task_id: str) -> int:
        """Returns the highest lease token of a task that a worker has seen."""
        return self._newest.get(task_id, 0)

    def lease(self, task_id: str, token: int) -> Delivery:
        """Returns a delivery."""
        return next(each for each in self.deliveries[task_id] if each.token == token)

    def ended(self, task_id: str, end: End, newest_when_sent: int) -> None:
        """Records an acknowledged outcome.

        Args:
            task_id: The task.
            end: The outcome.
            newest_when_sent: Value of `newest` before the outcome was sent.
        """
        known = self.ends.get(task_id)
        if known is None:
            if newest_when_sent > end.token:
                self.problem(f"I4: {task_id} ended with token {end.token} while {newest_when_sent} was out")
            self.ends[task_id] = end
            self.counts["ended"] += 1
        elif known.token != end.token:
            self.doubled.add(task_id)
            self.problem(f"I3: {task_id} ended with the tokens {known.token} and {end.token}")

    def judge_leases(self) -> None:
        """Checks I3 and I4: by the servers' clocks, a task's leases never overlap, and none begins after its end."""
        for task_id, deliveries in self.deliveries.items():
            last = max(each.token for each in deliveries)
            if (end := self.ends.get(task_id)) is not None and last > end.token:
                self.problem(f"I3: {task_id} ended with token {end.token} and was delivered with {last}")
            for earlier, later in itertools.pairwise(sorted(deliveries, key=lambda each: each.token)):
                start = later.start
                if self.clocks_agree and not earlier.given_up and start < earlier.until - SLACK_SECONDS:
                    self.problem(
                        f"I4: {task_id} was leased with token {later.token} {earlier.until - start:.3f} s before the "
                        f"lease of token {earlier.token} was over"
                    )

    def judge_task(self, task_id: str, number: int, status: str) -> bool:
        """Judges a task's state after the drain; returns False if it is lost or wrong."""
        attempt = self.attempts.get(number)
        if attempt is None:
            self.problem(f"I2: {task_id} exists with number {number}, and nobody tried to create it")
            return False
        wanted = {ENDS_AS.get(attempt.kind, "COMPLETED")}
        if attempt.cancelled == "acknowledged":
            wanted = {"CANCELLED"}
        elif attempt.cancelled == "sent":
            wanted.add("CANCELLED")
        end = self.ends.get(task_id)
        if status not in wanted or (end is not None and end.status != status):
            told = "" if end is None else f", and {end.status} was acknowledged"
            self.problem(f"I1: {task_id} ({attempt.kind}) is {status}{told}")
            return False
        return True
