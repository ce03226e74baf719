"""What a shard keeps in memory: queues with their lanes, claims with their live deliveries, the batch being decided.

Everything here is a cache over rows: in full only what runs or was given back, counters and queues; of each lane only a
window of its head.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from codeq_internal.v1 import rows_pb2

from . import ids, keys
from .alarms import NEVER
from .notable import Notables
from .rates import Rates

WINDOW_ENTRY_BYTES: Final = 300
"""Memory of a window's entry beside its task bytes; measured on CPython 3.11."""
FIRST_PAGE: Final = 16
"""Places of a lane read at first, while the size of its tasks is unknown; rows of a timeline read at first."""


class Name(NamedTuple):
    """A task's id that is not the server's: unique within the tenant only."""

    tenant: str
    task_id: str


TaskKey = str | Name
"""What a shard knows a task by: the server's id, or the tenant with the task's own id."""


def id_of(key: TaskKey) -> str:
    """Returns a task's id as clients know it."""
    return key if isinstance(key, str) else key.task_id


class Caller(NamedTuple):
    """A worker that claims or ends tasks.

    Attributes:
        tenant: Its tenant.
        worker: Its worker id: the subject, or subject/name.
        subject: Subject of its token.
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


class Lane:
    """One priority of a queue: places in the order of acceptance.

    The window covers the places (mark, loaded]; it says nothing of those in (loaded, tail], which are read from rows
    before it runs dry. `ready` counts pending tasks of the lane exactly, in the window or not, returned ones included.
    """

    __slots__ = (
        "_head",
        "_head_of",
        "gone",
        "heads",
        "index",
        "loaded",
        "mark",
        "page",
        "queue",
        "ready",
        "returned",
        "served",
        "state_prefix",
        "tail",
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
        self.window: deque[Entry] = deque()
        self.window_bytes = 0
        self.returned: list[tuple[int, int, int, int]] = []
        """Heap of (position, home lane, home position, attempts) of tasks given back, ahead of the mark."""
        self.gone: set[int] = set()
        """Positions in the window, and of returned tasks, whose tasks wait there no more; never the first of either."""
        self.page = FIRST_PAGE
        """Places to read next, by the size of those read before."""
        self.served = 0
        """Turn in which a claim took from it last."""
        self.task_prefix = keys.lane_prefix(b"t", queue.number, index)
        self.state_prefix = keys.lane_prefix(b"s", queue.number, index)
        self.heads: dict[int, bytes] = {}
        """Task bytes up to the payload's length, by max_attempts."""
        self._head = ""
        self._head_of = (-1, -1)

    def id_of(self, position: int, epoch: int) -> str:
        """Returns the id of the task whose home is at `position`."""
        of = (position >> 40, epoch)
        if of != self._head_of:
            self._head = ids.id_head(self.queue.number, self.index, position, epoch)
            self._head_of = of
        return f"{self._head}{position & 0xFFFFFFFFFF:010x}{ids.ROUTE}"

    def key_of(self, position: int, home: bytes) -> TaskKey:
        """Returns the key of the task whose home, at `position`, has this value."""
        name = keys.name_of(home)
        return Name(self.queue.tenant, name) if name else self.id_of(position, keys.home_epoch(home))


class Timeline:
    """A queue's rows in a table that is in the order of times, with the head of them in memory; see `TimeIndex`."""

    __slots__ = ("count", "cut_at", "gone", "heap", "loaded", "mark", "page", "prefix", "queue", "tenant")

    def __init__(self, table: bytes, queue: Queue) -> None:
        self.queue = queue
        self.tenant = queue.tenant
        self.prefix = table + queue.number.to_bytes(4, "big")
        self.count = 0
        """Number of rows."""
        self.mark = b""
        """Key after its prefix, or its beginning, before which there is no row and never will be."""
        self.heap: list[bytes] = []
        """Entries in memory: keys with values behind."""
        self.loaded: bytes | None = None
        """Key up to which every entry is in memory; None: all are."""
        self.gone: set[bytes] = set()
        """Keys whose rows are deleted; entries of them may still be in memory."""
        self.page = FIRST_PAGE
        """Rows to read next."""
        self.cut_at = 0
        """Entries in memory at which they are cut, unless that is less than usual."""


class Purge:
    """A purge of a queue that goes on: which tasks it ends, and how far it got since the opening; see `purging`."""

    __slots__ = ("at_ms", "following", "lsn", "page", "queue", "tails", "tenant")

    def __init__(self, queue: Queue, at_ms: int, tails: dict[int, int], lsn: int) -> None:
        self.queue = queue
        self.tenant = queue.tenant
        self.at_ms = at_ms
        """Time of the request, in Unix milliseconds."""
        self.tails = tails
        """Of each lane: its tail then."""
        self.lsn = lsn
        """Batch of the request."""
        self.following: dict[bytes, bytes | None] = {b"u": b"", b"d": b""}
        """Of each table that it goes through: the key to go on with; empty: the beginning, None: it is done."""
        self.page = FIRST_PAGE
        """Places to read next, by the size of those read before."""

    def row(self) -> rows_pb2.PurgeState:
        """Returns what the queue's row keeps of it."""
        tails = [keys.pack_home(lane, tail) for lane, tail in self.tails.items()]
        return rows_pb2.PurgeState(at_ms=self.at_ms, tails=tails)


class Queue:
    """The tasks of one command of one tenant, with exact counters."""

    __slots__ = (
        "claimed",
        "command",
        "completed_total",
        "created_total",
        "dlq",
        "failed_total",
        "filed",
        "key",
        "lanes",
        "named",
        "number",
        "paused",
        "purge",
        "rates",
        "removed_total",
        "tenant",
        "timelines",
        "touched",
    )

    def __init__(self, number: int, tenant: str, command: str) -> None:
        self.number = number
        self.tenant = tenant
        self.command = command
        self.key = keys.queue_key(number)
        self.lanes: list[Lane | None] = [None] * 16
        self.timelines: dict[bytes, Timeline] = {}
        """By table; of those only that it ever had rows in."""
        self.claimed = 0
        self.dlq = 0
        self.completed_total = 0
        self.failed_total = 0
        self.created_total = 0
        self.removed_total = 0
        self.paused = False
        """Whether somebody stopped its deliveries."""
        self.purge: Purge | None = None
        """A purge that goes on."""
        self.named = 0
        """Tasks with a row that leads from their id to their home."""
        self.filed = 0
        """Ended tasks with artifacts whose contents the server keeps."""
        self.rates = Rates()
        self.touched = False
        """Whether the batch being decided changed it."""

    @property
    def unused(self) -> bool:
        """Whether nothing is known of it but its name and its totals: no task has rows, and nobody has set anything."""
        return self.created_total == self.removed_total and not self.held

    @property
    def held(self) -> bool:
        """Whether claims give nothing of it."""
        return self.paused or self.purge is not None

    @property
    def ready(self) -> int:
        """Number of PENDING tasks."""
        return sum(lane.ready for lane in self.lanes if lane is not None)

    @property
    def scheduled(self) -> int:
        """Number of SCHEDULED tasks."""
        line = self.timelines.get(keys.DUE)
        return line.count if line is not None else 0

    @property
    def expiring(self) -> int:
        """Number of tasks in the expiry index: those whose time to expire has not come, wherever they are."""
        line = self.timelines.get(keys.EXPIRY)
        return line.count if line is not None else 0

    def timeline(self, table: bytes) -> Timeline:
        """Returns the timeline, made at its first use."""
        line = self.timelines.get(table)
        if line is None:
            line = self.timelines[table] = Timeline(table, self)
        return line

    def lane(self, index: int) -> Lane:
        """Returns the lane, made at its first use."""
        lane = self.lanes[index]
        if lane is None:
            lane = self.lanes[index] = Lane(self, index)
        return lane

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
        ).SerializeToString()


class Tenant:
    """The queues of a tenant in the order of their commands and in that of their numbers.

    Attributes:
        commands: Commands in order.
        numbers: Numbers in order.
    """

    __slots__ = ("commands", "numbers")

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.numbers: list[int] = []

    def add(self, queue: Queue) -> None:
        """Takes a queue that was opened last of all."""
        insort(self.commands, queue.command)
        self.numbers.append(queue.number)

    def remove(self, queue: Queue) -> None:
        """Forgets a queue."""
        del self.commands[bisect_left(self.commands, queue.command)]
        del self.numbers[bisect_left(self.numbers, queue.number)]


class Directory:
    """Which queues there are, beside their numbers and names.

    Attributes:
        tenants: Queues of each tenant.
        last_queue: Number of the queue opened last.
        idle: Unused queues with the monotonic milliseconds since when, the longest unused first.
        retire_at: Monotonic milliseconds at which the first of them may leave; NEVER: there are none.
    """

    __slots__ = ("idle", "last_queue", "retire_at", "tenants")

    def __init__(self) -> None:
        self.tenants: dict[str, Tenant] = {}
        self.last_queue = 0
        self.idle: OrderedDict[Queue, int] = OrderedDict()
        self.retire_at = NEVER


class Holder(Protocol):
    """A connected worker with deliveries of its own."""

    def cancelled(self, task_id: str, token: int) -> None:
        """Hears that a task was cancelled; the end is not durable yet."""
        ...


class Claim:
    """The deliveries of one claim: they share a lease token, a worker and a lease length."""

    __slots__ = (
        "again",
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
        """End of the leases on the monotonic clock, but for the extended ones."""
        self.extended: dict[TaskKey, tuple[int, int]] = {}
        """Ends on the monotonic clock and longest grants in milliseconds of leases that heartbeats extended."""
        self.task_ids: list[TaskKey] = []
        """Keys of the tasks that the lease row lists, live or not."""
        self.named = False
        """Whether a task of the claim may be a named one."""
        self.progressed: set[TaskKey] = set()
        """Live tasks whose state rows hold a progress of this delivery."""
        self.again: set[TaskKey] = set()
        """Live tasks that may have had deliveries before: their state rows tell of them."""
        self.holder: Holder | None = None
        """Who is told when a task of the claim is cancelled; None: nobody is connected."""
        self.live = 0
        self.head = b""
        self.head_of: tuple[int, int, int, int] = (-1, -1, -1, -1)

    def until_of(self, task_id: TaskKey) -> int:
        """Returns the end of a delivery's lease on the monotonic clock."""
        extended = self.extended.get(task_id)
        return self.until if extended is None else extended[0]


class Delivery(NamedTuple):
    """A live delivery.

    Attributes:
        claim: Claim it belongs to.
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


@dataclass(slots=True)
class Batch:
    """Row changes decided together: they become durable together.

    Attributes:
        lsn: Number of the batch, one more than that of the batch before.
        rows: New value of each changed row; None deletes it.
        touched: Queues whose rows are to be written.
        extended: Claims whose extension rows are to be written.
        ended: (queue, home, whether it went to the dead-letter queue) of tasks that ended.
        revived: Those of them, once for each such end, that were redriven in the same batch.
        size: Bytes of its payloads, results and rows of states.
        notable: What the log tells of it.
        kept_until: When the first of the tasks that ended in it may be removed, in Unix milliseconds; set by the seal.
    """

    lsn: int
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    touched: list[Queue] = field(default_factory=list)
    extended: dict[Claim, None] = field(default_factory=dict)
    ended: list[tuple[int, int, bool]] = field(default_factory=list)
    revived: list[tuple[int, int, bool]] = field(default_factory=list)
    size: int = 0
    notable: Notables = field(default_factory=Notables)
    kept_until: int | None = None

    def __bool__(self) -> bool:
        """Tells whether anything was decided."""
        return bool(self.rows or self.touched or self.extended)


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A batch ready to be written.

    Attributes:
        lsn: Its number.
        previous_lsn: Number of the batch before.
        epoch: Epoch in which it was decided.
        wall_ms: Time of sealing in Unix milliseconds.
        rows: Every row change.
    """

    lsn: int
    previous_lsn: int
    epoch: int
    wall_ms: int
    rows: dict[bytes, bytes | None]
