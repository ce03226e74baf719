"""A shard's data in memory: queues with their lanes, and claims with their live deliveries.

Everything here is a cache over rows. Running and returned tasks, counters and queues are in memory in full, but only
the head of each lane is: its window.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from . import ids, keys
from .durations import Meter
from .key_rings import KeyPolicy, KeyRing
from .outbox import Outbox
from .rates import Rates

if TYPE_CHECKING:
    from .policy import Policy

WINDOW_ENTRY_BYTES: Final = 300
"""Memory of a window entry in addition to its task bytes; measured on CPython 3.11."""
WINDOW_BYTES: Final = 760
"""Memory of a window that is not empty, besides its entries."""
FIRST_PAGE = 16
"""Number of places to read first in a lane, and of rows to read first in a timeline, while the size of tasks is
unknown."""


class Name(NamedTuple):
    """A task id that the server did not assign; unique only within the tenant."""

    tenant: str
    task_id: str


TaskKey = str | Name
"""A shard's key for a task: the id that the server assigned, or the tenant together with the task's own id."""


def id_of(key: TaskKey) -> str:
    """Returns a task's id as clients know it."""
    return key if isinstance(key, str) else key.task_id


class Caller(NamedTuple):
    """A worker that claims or ends tasks.

    Attributes:
        tenant: Tenant of the worker.
        worker: Worker id: the subject, or subject/name.
        subject: Subject of the worker's token.
    """

    tenant: str
    worker: str
    subject: str


class Entry(NamedTuple):
    """A waiting task in a lane's window.

    Attributes:
        position: Place in the lane.
        task_id: Key of the task; empty for a pointer.
        raw: Task bytes; empty for a pointer, whose home is read when it is claimed.
        target: Home lane, home position and attempts of a pointer.
    """

    position: int
    task_id: TaskKey
    raw: bytes
    target: tuple[int, int, int] | None


NO_WINDOW: Final[deque[Entry]] = deque()
"""The window of lanes that have none of their own; always empty."""
NOTHING_GONE: Final[set[int]] = set()
"""The same for `Lane.gone`."""


class Lane:
    """The tasks of one priority of a queue, in places in the order of acceptance.

    The window covers the places (mark, loaded]. Places in (loaded, tail] are read from rows before the window runs dry.
    `ready` is the exact number of the lane's pending tasks, in the window or not, including returned tasks.
    """

    __slots__ = (
        "_head",
        "_head_of",
        "_routed",
        "gone",
        "index",
        "loaded",
        "mark",
        "max_attempts",
        "page",
        "queue",
        "ready",
        "returned",
        "served",
        "state_prefix",
        "tail",
        "task_head",
        "task_prefix",
        "window",
        "window_bytes",
    )

    def __init__(self, queue: Queue, index: int, *, mark: int = 0, tail: int = 0, ready: int = 0) -> None:
        self.queue = queue
        self.index = index
        self.mark = mark
        self.tail = tail
        self.ready = ready
        self.loaded = mark
        self.window = NO_WINDOW
        self.window_bytes = 0
        self.returned: list[tuple[int, int, int, int]] = []
        """Heap of (position, home lane, home position, attempts) of returned tasks, whose places are before the
        mark."""
        self.gone = NOTHING_GONE
        """Positions, in the window or of returned tasks, at which nothing waits any more; never the first position of
        either."""
        self.page = FIRST_PAGE
        """Number of places to read next; depends on the size of the places already read."""
        self.served = 0
        """Number of the turn in which a claim last took a task from the lane."""
        self.task_prefix = keys.lane_prefix(keys.TASKS, queue.number, index)
        self.state_prefix = keys.lane_prefix(keys.STATES, queue.number, index)
        self.task_head = b""
        """Task bytes up to the payload's length, of tasks with `max_attempts`."""
        self.max_attempts = 0
        """That of the last task created."""
        self._head = ""
        self._head_of = (-1, -1)
        self._routed = None if queue.route is None else ids.PlaceIds(queue.number, index, queue.route)
        """The ids where there are several shards."""

    def id_of(self, position: int, epoch: int) -> str:
        """Returns the id of the task whose home is at `position`.

        Returns:
            Empty: no id of this place leads to the shard; see `pass_over`.
        """
        if self._routed is not None:
            return self._routed.of(position, epoch)
        of = (position >> 40, epoch)
        if of != self._head_of:
            self._head = ids.id_head(self.queue.number, self.index, position, epoch)
            self._head_of = of
        return f"{self._head}{(position & 0xFFFFFFFFFF).to_bytes(5, 'big').hex()}{ids.ROUTE}"

    def pass_over(self, epoch: int) -> str:
        """Leaves the next places empty whose ids could not lead to the shard; returns the id of the next place."""
        while not (task_id := self.id_of(self.tail + 1, epoch)):
            if self.loaded == self.tail:
                self.loaded += 1
            self.tail += 1
        return task_id

    def key_of(self, position: int, home: bytes) -> TaskKey:
        """Returns the key of the task whose home at `position` has this value."""
        name = keys.name_of(home)
        return Name(self.queue.tenant, name) if name else self.id_of(position, keys.home_epoch(home))


class Timeline:
    """A queue's rows in a table ordered by time, with their head in memory; see `TimeIndex`."""

    __slots__ = ("count", "cut_at", "gone", "heap", "loaded", "mark", "page", "prefix", "queue", "tenant")

    def __init__(self, table: bytes, queue: Queue) -> None:
        self.queue = queue
        self.tenant = queue.tenant
        self.prefix = keys.queue_prefix(table, queue.number)
        self.count = 0
        """Number of rows."""
        self.mark = b""
        """Key without its prefix, possibly truncated; no row comes before it, now or ever."""
        self.heap: list[bytes] = []
        """Entries in memory: keys followed by values."""
        self.loaded: bytes | None = None
        """Key up to which every entry is in memory; None: all entries are."""
        self.gone: set[bytes] = set()
        """Keys of deleted rows whose entries may still be in memory."""
        self.page = FIRST_PAGE
        """Number of rows to read next."""
        self.cut_at = 0
        """Number of entries in memory at which they are trimmed, if it is above the usual limit."""


class Purge:
    """A purge in progress: the tasks it ends, and its progress since the shard was opened; see `purging`."""

    __slots__ = ("at_ms", "following", "page", "queue", "tails", "tenant")

    def __init__(self, queue: Queue, at_ms: int, tails: dict[int, int]) -> None:
        self.queue = queue
        self.tenant = queue.tenant
        self.at_ms = at_ms
        """Time of the request, in Unix milliseconds."""
        self.tails = tails
        """Tail of each lane at the time of the request."""
        self.following: dict[bytes, bytes | None] = {keys.BLOCKED: b"", keys.RETURNED: b"", keys.DUE: b""}
        """Next key to read in each table it scans; empty: start at the beginning, None: done."""
        self.page = FIRST_PAGE
        """Number of places to read next; depends on the size of the places already read."""

    def row(self) -> rows_pb2.PurgeState:
        """Returns the part of the purge that the queue's row stores."""
        tails = [keys.pack_home(lane, tail) for lane, tail in self.tails.items()]
        return rows_pb2.PurgeState(at_ms=self.at_ms, tails=tails)


class Queue:
    """The tasks of one command of one tenant, with exact counters."""

    __slots__ = (
        "accepted_bytes",
        "blocked",
        "claimed",
        "command",
        "completed_total",
        "counted_bytes",
        "counted_leases",
        "counted_waiting",
        "created_total",
        "delivered_total",
        "dlq",
        "failed_total",
        "filed",
        "full",
        "hooked",
        "key",
        "key_policy",
        "lanes",
        "meter",
        "named",
        "number",
        "outbox",
        "paused",
        "policy",
        "purge",
        "rates",
        "removed_bytes",
        "removed_total",
        "reshown",
        "ring",
        "route",
        "signalled",
        "tenant",
        "timelines",
        "touched",
    )

    def __init__(self, number: int, tenant: str, command: str, route: ids.Route | None = None) -> None:
        self.number, self.tenant, self.command, self.route = number, tenant, command, route
        """The way to the shard: None if there is only one."""
        self.key = keys.queue_key(number)
        self.lanes: list[Lane | None] = [None] * 16
        self.timelines: dict[bytes, Timeline] = {}
        """Timelines by table; only tables in which the queue ever had rows."""
        self.claimed = 0
        self.dlq = 0
        self.completed_total = 0
        self.failed_total = 0
        self.created_total = 0
        self.removed_total = 0
        self.delivered_total = 0
        self.accepted_bytes = 0
        """Bytes of payloads and results accepted."""
        self.removed_bytes = 0
        """Those of them that were removed; each task counts with the mean size of those stored at the time."""
        self.counted_waiting = self.counted_leases = self.counted_bytes = 0
        """Waiting tasks, leases and stored bytes that are in the sums of the tenant."""
        self.paused = False
        """Whether deliveries were paused by request."""
        self.purge: Purge | None = None
        """The purge in progress."""
        self.named = 0
        """Number of tasks with a row that maps their id to their home."""
        self.filed = 0
        """Number of ended tasks with artifacts whose contents the server stores."""
        self.policy: Policy | None = None
        """The policy of its command; None: it has none."""
        self.full = False
        """Whether as many tasks are leased as the policy allows."""
        self.hooked = 0
        """Number of tasks with a webhook."""
        self.outbox: Outbox | None = None
        """The callbacks of its tasks; None: no task with a webhook has ended."""
        self.rates = Rates()
        self.reshown = 0
        """Times that tasks became ready without a new place: returned tasks, and resumed deliveries."""
        self.signalled = 0
        """The queue's arrivals when it was last seen to have ready work; see `subscriptions`."""
        self.key_policy: KeyPolicy | None = None
        """Limits of tasks with keys, and of the queue's rate."""
        self.ring: KeyRing | None = None
        """Keys in use; None: no task of the queue ever had a key, and the rate of the queue has no limit."""
        self.blocked = 0
        """Number of PENDING tasks that wait for their key; no lane counts them."""
        self.touched = False
        """Whether the queue was changed since its tenant's sums were brought up to date."""
        self.meter = Meter()

    @property
    def unused(self) -> bool:
        """Whether only the queue's name and totals are left: it has no tasks, and is not paused or being purged."""
        return self.created_total == self.removed_total and not self.held

    @property
    def held(self) -> bool:
        """Whether claims skip the queue."""
        return self.paused or self.purge is not None or self.full

    def slots(self, wanted: int) -> int:
        """Returns how many of the wanted tasks the queue's policy allows to lease now."""
        policy = self.policy
        if policy is None or not policy.max_consumers:
            return wanted
        return min(wanted, max(0, policy.max_consumers - self.claimed))

    @property
    def claimable(self) -> int:
        """Number of PENDING tasks that do not wait for their key."""
        return sum(lane.ready for lane in self.lanes if lane is not None)

    @property
    def ready(self) -> int:
        """Number of PENDING tasks."""
        return self.claimable + self.blocked

    @property
    def scheduled(self) -> int:
        """Number of SCHEDULED tasks."""
        line = self.timelines.get(keys.DUE)
        return line.count if line is not None else 0

    @property
    def stored_bytes(self) -> int:
        """Bytes of payloads and results of stored tasks, an estimate if tasks of different sizes were removed."""
        return self.accepted_bytes - self.removed_bytes

    @property
    def expiring(self) -> int:
        """Number of tasks in the expiry index: tasks whose expiry time has not come, whatever their status."""
        line = self.timelines.get(keys.EXPIRY)
        return line.count if line is not None else 0

    def timeline(self, table: bytes) -> Timeline:
        """Returns the timeline of a table, created on first use."""
        line = self.timelines.get(table)
        if line is None:
            line = self.timelines[table] = Timeline(table, self)
        return line

    def lane(self, index: int) -> Lane:
        """Returns the lane, created on first use."""
        lane = self.lanes[index]
        if lane is None:
            lane = self.lanes[index] = Lane(self, index)
        return lane

    def keep_keys(self) -> KeyRing:
        """Returns the keys in use, which from now on the queue keeps."""
        ring = self.ring
        if ring is None:
            ring = self.ring = KeyRing(self.number, self.tenant)
        return ring

    def limit_keys(self, policy: KeyPolicy | None) -> None:
        """Sets the limits of tasks with keys, and of the queue's rate."""
        self.key_policy = policy
        if policy is not None and policy.rate_per_second:
            self.keep_keys()

    def row(self) -> bytes:
        """Returns the queue's row."""
        due, expiry = self.timelines.get(keys.DUE), self.timelines.get(keys.EXPIRY)
        return rows_pb2.QueueRow(
            tenant=self.tenant,
            command=self.command,
            lanes=[
                rows_pb2.LaneState(lane=lane.index, mark=lane.mark, tail=lane.tail, ready=lane.ready)
                for lane in self.lanes
                if lane is not None
            ],
            scheduled=due.count if due is not None else 0,
            due_mark=due.mark if due is not None else b"",
            expiring=expiry.count if expiry is not None else 0,
            expire_mark=expiry.mark if expiry is not None else b"",
            claimed=self.claimed,
            dlq=self.dlq,
            completed_total=self.completed_total,
            failed_total=self.failed_total,
            created_total=self.created_total,
            paused=self.paused,
            named=self.named,
            removed_total=self.removed_total,
            filed=self.filed,
            purge=self.purge.row() if self.purge is not None else None,
            stored_bytes=self.accepted_bytes - self.removed_bytes,
            delivered_total=self.delivered_total,
            accepted_bytes_total=self.accepted_bytes,
            hooked=self.hooked,
            outbox=self.outbox.row(self.timelines.get(keys.RETRIES)) if self.outbox is not None else None,
            keyed=self.ring is not None and self.ring.keyed,
            blocked=self.blocked,
        ).SerializeToString()
