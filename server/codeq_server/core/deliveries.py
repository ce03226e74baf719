"""Deliveries in memory: the claims of workers, and the tasks that they hold."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from .model import Lane, Queue, TaskKey


class Holder(Protocol):
    """A connected worker that holds deliveries."""

    def cancelled(self, task_id: str, token: int) -> None:
        """Called when a task was cancelled; the cancellation is not durable yet."""
        ...


class Claim:
    """The deliveries of one claim; they share a lease token, a worker and a lease length."""

    __slots__ = (
        "again",
        "age_bucket",
        "age_ms",
        "aged",
        "born",
        "claimed_ms",
        "extended",
        "head",
        "head_of",
        "holder",
        "lease_ms",
        "live",
        "named",
        "progressed",
        "subject",
        "task_ids",
        "token",
        "until",
        "worker",
    )

    def __init__(self, token: int, worker: str, subject: str, lease_ms: int, claimed_ms: int, until: int) -> None:
        self.token = token
        self.worker = worker
        self.subject = subject
        self.lease_ms = lease_ms
        self.claimed_ms = claimed_ms
        self.until = until
        """End of the leases on the monotonic clock, except for extended leases."""
        self.extended: dict[TaskKey, tuple[int, int]] = {}
        """Each lease extended by heartbeats: its end on the monotonic clock and longest extension in milliseconds."""
        self.task_ids: list[TaskKey] = []
        """Keys of the tasks listed in the lease row, live or not."""
        self.named = False
        """Whether a task of the claim may be a named one."""
        self.progressed: set[TaskKey] = set()
        """Live tasks whose state rows hold progress reported during this delivery."""
        self.again: set[TaskKey] = set()
        """Live tasks that may have been delivered before; their state rows record it."""
        self.born: dict[object, int] | None = None
        """When its tasks were accepted, in Unix milliseconds: the oldest of each queue, and each task of `again`. None:
        nobody asks for the times of its tasks."""
        self.aged: Queue | None = None
        """The queue of which all tasks that complete at the time of `head_of` count with this age; None: see `born`."""
        self.age_ms = self.age_bucket = 0
        self.holder: Holder | None = None
        """Notified when a task of the claim is cancelled; None: no worker is connected."""
        self.live = 0
        self.head = b""
        self.head_of: tuple[int, int, int, int] = (-1, -1, -1, -1)

    def until_of(self, task_id: TaskKey) -> int:
        """Returns the end of a delivery's lease on the monotonic clock."""
        extended = self.extended.get(task_id)
        return self.until if extended is None else extended[0]


MOVED_PLACE: Final = 1 << 56
"""Bit set in the place of a delivery that was not claimed from the task's home."""


class Delivery(NamedTuple):
    """A live delivery.

    Attributes:
        claim: Claim that the delivery belongs to.
        home: Lane of the task's home.
        position: Position of the home.
        place: Where the task was claimed from: 0 for its home, else 1 << 56 | lane << 48 | position.
        attempts: Deliveries before this one.
    """

    claim: Claim
    home: Lane
    position: int
    place: int
    attempts: int
