"""Batches of row changes: the batch that decisions are filling, and the form in which a batch is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from .deliveries import Claim
from .model import Purge, Queue
from .notable import Notables
from .subscriptions import Readiness
from .traces import TracedTask


@dataclass(slots=True)
class Batch:
    """Row changes decided together, which become durable together.

    Attributes:
        lsn: Number of the batch, one more than the previous batch's.
        rows: New value of each changed row; None deletes it.
        touched: Queues whose rows are to be written, and which changed since their tenants' sums were brought up to
            date.
        counted: Further queues whose rows are to be written.
        extended: Claims whose extension rows are to be written.
        completed: (queue, home) of each task that completed.
        ended: (queue, home, whether it went to the dead-letter queue) of each task that ended otherwise.
        purges: Purges that begin once the batch is durable.
        revived: Tasks that ended and were redriven in this batch; a task is listed once for each time that it ended.
        size: Bytes of the payloads, results and state rows in the batch.
        notable: Events for the log.
        traced: Ends of tasks whose traces are recorded.
        kept_until: Earliest time at which a task that ended in the batch may be removed, in Unix milliseconds; set
            by `seal`.
        readiness: Changed queues of tenants with subscriptions; set by `seal`. None: no tenant has any.
    """

    lsn: int
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    touched: list[Queue] = field(default_factory=list)
    counted: dict[Queue, None] = field(default_factory=dict)
    extended: dict[Claim, None] = field(default_factory=dict)
    completed: list[tuple[int, int]] = field(default_factory=list)
    ended: list[tuple[int, int, bool]] = field(default_factory=list)
    revived: list[tuple[int, int, bool]] = field(default_factory=list)
    purges: list[Purge] = field(default_factory=list)
    size: int = 0
    notable: Notables = field(default_factory=Notables)
    traced: list[TracedTask] = field(default_factory=list)
    kept_until: int | None = None
    readiness: list[Readiness] | None = None

    def __bool__(self) -> bool:
        """Returns whether anything was decided."""
        return bool(self.rows or self.touched or self.counted or self.extended)


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A batch ready to be written.

    Attributes:
        lsn: Number of the batch.
        previous_lsn: Number of the previous batch.
        epoch: Epoch in which the batch was decided.
        wall_ms: Time of sealing in Unix milliseconds.
        rows: Every row change.
    """

    lsn: int
    previous_lsn: int
    epoch: int
    wall_ms: int
    rows: dict[bytes, bytes | None]
