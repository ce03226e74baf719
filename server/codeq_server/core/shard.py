"""The shard's memory, its batch, and the overlay through which rows not yet written are read.

Life of a batch: decisions fill it, `seal` closes it and adds the rows it shares (queues, ended lists, tick), the caller
writes it, `settled` forgets it. While one batch is being written, the next one is being filled; reads see both.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from codeq_internal.v1 import rows_pb2

from . import keys
from .alarms import Alarms
from .audit import Trail
from .backoff import BackoffPolicy
from .batch import Batch, SealedBatch
from .clock import Now
from .deliveries import Claim, Delivery
from .directory import Directory, Tenant
from .durations import TaskTimes
from .effects import Effects
from .endpoints import Endpoints
from .errors import CorruptRows, Reason, Rejection
from .ids import Route
from .key_rings import KeyRing
from .lease_ends import LeaseEnds
from .limits import Limits
from .model import Lane, Purge, Queue, TaskKey
from .outbox import Outbox
from .parsing import RowReader, parsed
from .policies import Policies
from .schedules import Schedules
from .subscriptions import Subscriptions
from .tenants import QUEUES, Tenants
from .time_index import TimeIndex
from .totals import Totals
from .traces import Traces

TOKEN_COUNTER_BITS: Final = 34
ENDED_ROW_MAX = 1024
"""Maximum number of tasks listed in one ended row, the unit of work of the retention sweep."""
OVER_CLAIMS_MAX: Final = 1024
"""Number of entries of ended claims, beyond the number of live claims, at which lists of claims are pruned."""

CONFIGURED: Final = Limits(queues_max=10_000)
"""Limits of tenants if the operator configures none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """Settings that an operator can change.

    Attributes:
        max_attempts: Deliveries of a task that does not specify a limit.
        backoff_policy: How the delay after a nack grows.
        backoff_base_seconds: First delay.
        backoff_max_seconds: Largest delay of the policy.
        retention_ms: How long ended tasks are kept.
        dlq_retention_ms: How long tasks in the dead-letter queue are kept.
        window_bytes_max: Memory for the heads of all queues together.
        queues_max: Queues of the shard, of all tenants.
        limits: Limits of tenants for which nothing else is set.
        queue_idle_ms: How long a queue is kept without any task, whether ended or not.
        audit_retention_ms: How long audit records are kept.
        route: The way to the shard; None: there is only one.
    """

    max_attempts: int = 5
    backoff_policy: BackoffPolicy = BackoffPolicy.EXP_FULL_JITTER
    backoff_base_seconds: int = 5
    backoff_max_seconds: int = 900
    retention_ms: int = 86_400_000
    dlq_retention_ms: int = 1_209_600_000
    window_bytes_max: int = 64 << 20
    queues_max: int = 100_000
    limits: Limits = CONFIGURED
    queue_idle_ms: int = 3_600_000
    audit_retention_ms: int = 7_776_000_000
    route: Route | None = None


class Shard:
    """A shard's memory; only the functions of this package change it."""

    times: TaskTimes | None = None
    """Histograms of queues that metrics have not read yet; None: nobody has asked for metrics."""
    traces: Traces | None = None
    """Tasks whose traces are recorded; None: none are. The caller sets it."""
    resharded = False
    """Whether the number of shards was changed: tasks may have ids and names that other shards made."""

    def __init__(self, rows: RowReader, settings: ShardSettings, epoch: int) -> None:
        self.stored, self.settings, self.epoch = rows, settings, epoch
        self.totals = Totals()
        # The anchors are the readings of both clocks when the wall clock was last not behind.
        self.wall_ms = self._anchor_wall_ms = self._anchor_mono_ms = 0
        self.batch = Batch(lsn=1)
        self.in_flight: deque[Batch] = deque()
        self.in_flight_wall_ms: deque[int] = deque()
        self.queues: dict[int, Queue] = {}
        self.by_name: dict[tuple[str, str], Queue] = {}
        self.directory = Directory()
        self.tenants = Tenants(settings.limits, 1 if settings.route is None else settings.route.count)
        self.policies = Policies(self)
        self.ready: dict[str, list[OrderedDict[Queue, None] | None]] = {}
        """Queues with tasks to deliver, by tenant and lane; the most recently served queue is last. None: no queue of
        the tenant ever had such tasks in the lane."""
        self.starved: set[str] = set()
        """Tenants whose workers get no task because they have as many leases as they may."""
        self.deliveries: dict[TaskKey, Delivery] = {}
        self.claims: dict[int, Claim] = {}
        self.claim_order: deque[int] = deque()
        self.token_counter = self.turn = 0
        """Number of turns that lanes have had in claims."""
        self.lease_ends = LeaseEnds()
        self.due, self.expiry = TimeIndex(keys.DUE, self), TimeIndex(keys.EXPIRY, self)
        """Scheduled tasks, and tasks that expire if they wait too long."""
        self.retries, self.endpoints = TimeIndex(keys.RETRIES, self), Endpoints()
        """Callbacks that wait for another attempt, and the settings of their receivers."""
        self.outboxes: Alarms[Outbox] = Alarms()
        """Queues with callbacks for which no attempt has been made, in turn."""
        self.purges: Alarms[Purge] = Alarms()
        """Purges in progress, in turn."""
        self.gates_due: Alarms[KeyRing] = Alarms()
        """Queues with gates that may open, or with lanes to sift."""
        self.audit: Trail = Trail(self, settings.audit_retention_ms)
        self.schedules: Schedules = Schedules()
        self.subscriptions: Subscriptions = Subscriptions()
        self.sweep_mark, self.swept = b"", (b"", 0, 0)
        """The last list of ended tasks that was swept, and the list being swept with queue and home of the last task
        examined."""
        self.sweep_at: int | None = None
        """When the next ended list may be due, in Unix milliseconds."""
        self.sweep_blocked = False
        """Whether that list is due but must wait until a batch in flight is written."""
        self.windows_bytes = 0
        self.loaded_lanes: dict[Lane, None] = {}
        self.effects: Effects | None = None
        """Effects of decisions since the caller last took them; None: there are no effects."""
        self.storage_full = False
        """Whether new tasks are rejected because the disk is nearly full; the caller maintains it."""
        self.watched: set[TaskKey] = set()
        """Keys of tasks whose end a caller waits for; the caller maintains it."""
        self.home_head, self.created_of, self.created = keys.home_head(epoch), -1, b""
        """First bytes of the homes of tasks created in this epoch; a time in Unix milliseconds, and the encoded
        created_at of tasks created then."""

    # -- time ----------------------------------------------------------------------------------------------------

    def start_clock(self, wall_ms: int, mono_ms: int) -> None:
        """Starts at the time of the last batch, at this reading of the monotonic clock."""
        self.wall_ms = self._anchor_wall_ms = wall_ms
        self._anchor_mono_ms = mono_ms

    def at(self, wall_ms: int, mono_ms: int) -> Now:
        """Returns the time of a decision: the wall clock never runs backwards within a shard.

        While the wall clock is behind an earlier reading, of this clock or of another leader's, time runs at half
        speed. Scheduled work is then late, but a clock that was an hour ahead does not delay it by an hour.
        """
        slow_ms = self._anchor_wall_ms + (mono_ms - self._anchor_mono_ms) // 2
        if wall_ms >= slow_ms:
            slow_ms = self._anchor_wall_ms = wall_ms
            self._anchor_mono_ms = mono_ms
        self.wall_ms = max(self.wall_ms, slow_ms)
        return Now(self.wall_ms, mono_ms)

    # -- rows ----------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a row, decided or written; None: no such row."""
        if key in self.batch.rows:
            return self.batch.rows[key]
        for batch in reversed(self.in_flight):
            if key in batch.rows:
                return batch.rows[key]
        return self.stored.get(key)

    def current(self, stored: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Returns stored rows with the changes decided but not yet written; deleted rows are left out."""
        found = [key for key, _ in stored]
        if all(batch.rows.keys().isdisjoint(found) for batch in (self.batch, *self.in_flight)):
            return stored
        values = ((key, self.get(key)) for key in found)
        return [(key, value) for key, value in values if value is not None]

    def places(self, lane: Lane, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Yields position and value of the existing places [first, last] of a lane, decided or written, in order."""
        prefix = lane.task_prefix
        stored = dict(
            self.stored.scan(keys.place_key(prefix, first), keys.place_key(prefix, last + 1), last - first + 1)
        )
        layers = [batch.rows for batch in (*self.in_flight, self.batch) if batch.rows]
        for position in range(first, last + 1):
            key = keys.place_key(prefix, position)
            value = stored.get(key)
            for rows in layers:
                if key in rows:
                    value = rows[key]
            if value is not None:
                yield position, value

    def state(self, home: Lane, position: int) -> rows_pb2.StateRow | None:
        """Returns the state row of the task with this home."""
        key = keys.place_key(home.state_prefix, position)
        value = self.get(key)
        if value is None:
            return None
        state = parsed(rows_pb2.StateRow, key, value)
        if state.place_lane > keys.PARKED_LANE:
            raise CorruptRows(key, f"names lane {state.place_lane}, which no queue has")
        return state

    def put_state(self, home: Lane, position: int, state: rows_pb2.StateRow) -> None:
        """Adds the state row of the task with this home to the batch."""
        row = state.SerializeToString()
        self.batch.rows[keys.place_key(home.state_prefix, position)] = row
        self.batch.size += len(row)  # it may hold progress or a result

    def touch(self, queue: Queue) -> None:
        """Marks a queue as changed in the current batch."""
        if not queue.touched:
            queue.touched = True
            self.batch.touched.append(queue)

    # -- effects ---------------------------------------------------------------------------------------------------

    def affect(self) -> Effects:
        """Returns the effects of the decisions so far, to add to them."""
        effects = self.effects
        if effects is None:
            effects = self.effects = Effects()
        return effects

    def take_effects(self) -> Effects | None:
        """Hands over the effects of the decisions so far; None: there are no effects."""
        effects, self.effects = self.effects, None
        return effects

    # -- queues --------------------------------------------------------------------------------------------------

    def open_queue(self, tenant: str, command: str) -> Queue:
        """Returns the queue, created on first use.

        Raises:
            Rejection: TOO_MANY_QUEUES, QUOTA_EXCEEDED.
        """
        queue = self.by_name.get((tenant, command))
        if queue is None:
            self.make_room(tenant, (command,))
            queue = self.add_queue(tenant, command)
        return queue

    def add_queue(self, tenant: str, command: str) -> Queue:
        """Returns a new queue, for which no limit is checked."""
        self.directory.last_queue += 1
        queue = Queue(self.directory.last_queue, tenant, command, self.settings.route)
        self.tenants.note_opened(tenant, self.wall_ms)
        self.adopt(queue)
        self.directory.tenants[tenant].add(queue)
        self.policies.attach(queue)
        self.touch(queue)
        return queue

    def lane_named(self, key: bytes, number: int, index: int) -> Lane:
        """Returns the lane of a queue that the row with this key refers to.

        Raises:
            CorruptRows: The queue does not exist, or none of its tasks was ever in that lane.
        """
        queue = self.queues.get(number)
        lane = queue.lanes[index] if queue is not None and index <= keys.PARKED_LANE else None
        if lane is None:
            raise CorruptRows(key, f"names lane {index} of queue {number}, which has no row")
        return lane

    def make_room(self, tenant: str, commands: Collection[str]) -> None:
        """Checks that the queues of all these commands exist or may be opened.

        Raises:
            Rejection: TOO_MANY_QUEUES, QUOTA_EXCEEDED.
        """
        missing = sum((tenant, command) not in self.by_name for command in commands)
        if not missing:
            return
        settings, there = self.settings, self.directory.tenants.get(tenant)
        most = self.tenants.limits_of(tenant).queues_max
        if 0 < most < (len(there.numbers) if there else 0) + missing:
            raise self.tenants.refuse(
                tenant,
                QUEUES,
                most,
                f"the tenant would have more than {most} queues, its limit ({QUEUES}, by default queuesPerTenantMax); "
                f"a queue is removed {settings.queue_idle_ms // 1000} s after its last task",
            )
        if (
            len(self.queues) + missing > settings.queues_max
            or self.directory.last_queue + missing > keys.QUEUE_NUMBER_MAX
        ):
            raise Rejection(Reason.TOO_MANY_QUEUES, f"the server has {settings.queues_max} queues, its limit")
        self.tenants.check_opening(tenant, missing, self.wall_ms)

    def adopt(self, queue: Queue) -> None:
        """Adds a new or a stored queue to memory; the caller maintains the lists of its tenant."""
        self.queues[queue.number] = queue
        self.by_name[queue.tenant, queue.command] = queue
        queue.meter.times = self.times
        if queue.tenant not in self.ready:
            self.ready[queue.tenant] = [None] * keys.LANES
            self.directory.tenants[queue.tenant] = Tenant()
        for lane in queue.lanes[: keys.LANES]:
            if lane is not None and lane.ready and not queue.held:
                self._show(lane)

    def pause(self, queue: Queue) -> None:
        """Pauses the deliveries of a queue."""
        if queue.paused:
            return
        queue.paused = True
        self.hold(queue)
        self.touch(queue)

    def resume(self, queue: Queue) -> None:
        """Resumes the deliveries of a queue."""
        if not queue.paused:
            return
        queue.paused = False
        self.release(queue)
        self.touch(queue)

    def hold(self, queue: Queue) -> None:
        """Hides a queue from claims because it was paused, is being purged or is at a limit of its policy."""
        for queues in self.ready[queue.tenant]:
            if queues is not None:
                queues.pop(queue, None)

    def release(self, queue: Queue) -> None:
        """Shows a queue to claims again, unless it is held for another reason."""
        queue.reshown += 1
        for lane in queue.lanes[: keys.LANES]:
            if lane is not None and lane.ready:
                self.became_ready(lane)

    def became_ready(self, lane: Lane) -> None:
        """Registers a lane that got its first pending task, and wakes its queue so that no claim keeps waiting."""
        if lane.queue.held:
            return
        self._show(lane)
        self.affect().woken[lane.queue] = None

    def _show(self, lane: Lane) -> None:
        """Shows a lane with pending tasks to claims."""
        ready = self.ready[lane.queue.tenant]
        queues = ready[lane.index]
        if queues is None:
            queues = ready[lane.index] = OrderedDict()
        queues[lane.queue] = None

    # -- tenants ---------------------------------------------------------------------------------------------------

    def used_by(self, tenant: str) -> Tenant:
        """Returns the queues of a tenant with exact sums; empty if it has none. The caller does not change it."""
        self.count()
        return self.directory.tenants.get(tenant) or Tenant()

    def count(self) -> None:
        """Brings the tenants' sums up to date with the queues changed since the last time; may feed starved tenants.

        No decision may be halfway.
        """
        batch, tenants = self.batch, self.directory.tenants
        for queue in batch.touched:
            queue.touched = False
            batch.counted[queue] = None
            tenants[queue.tenant].count(queue)
            if self.starved and queue.tenant in self.starved:
                self.feed(queue.tenant)
        batch.touched.clear()

    def feed(self, tenant: str) -> None:
        """Wakes the workers of a starved tenant if it may lease tasks again."""
        most = self.tenants.limits_of(tenant).leases_max
        there = self.directory.tenants.get(tenant)
        if not most or there is None or there.leases < most:
            self.starved.discard(tenant)
            self.affect().fed[tenant] = None

    # -- tokens and the life of a batch ----------------------------------------------------------------------------

    def next_token(self) -> int:
        """Returns a lease token greater than all before it."""
        self.token_counter += 1
        if self.token_counter >> TOKEN_COUNTER_BITS:
            raise OverflowError("lease tokens of the epoch are used up")
        return self.epoch << TOKEN_COUNTER_BITS | self.token_counter

    def drop_claim(self, claim: Claim) -> None:
        """Forgets a claim without live deliveries and deletes its rows."""
        del self.claims[claim.token]
        self.batch.rows[keys.lease_key(claim.token)] = None
        if any(granted > claim.lease_ms for _, granted in claim.extended.values()):
            self.batch.rows[keys.extension_key(claim.token)] = None

    def seal(self, now: Now) -> SealedBatch:
        """Closes the batch and opens the next one; the closed batch is in flight until `settled`."""
        self.count()
        batch, idle = self.batch, self.directory.idle
        rows = batch.rows
        for queue in batch.counted:
            rows[queue.key] = queue.row()
            queue.rates.note(queue.created_total, queue.completed_total, now.mono_ms)
            if queue.unused:
                idle.add(queue, now.mono_ms, self.settings.queue_idle_ms)
            elif idle.since:
                idle.since.pop(queue, None)
        if self.subscriptions.by_tenant:
            batch.readiness = self.subscriptions.readiness(batch.counted)
        for claim in batch.extended:
            if claim.token in self.claims:
                # Empty if every extended delivery has ended since; a row without grants is deleted.
                rows[keys.extension_key(claim.token)] = self._extension_row(claim) or None
        self._list_ended(batch, now)
        self._forget_over_claims()
        oldest = self.claim_order[0] if self.claim_order else self.epoch << TOKEN_COUNTER_BITS | self.token_counter + 1
        rows[keys.TICK] = rows_pb2.TickRow(
            lsn=batch.lsn,
            wall_ms=now.wall_ms,
            oldest_lease=oldest,
            sweep_mark=self.sweep_mark,
            last_queue=self.directory.last_queue,
        ).SerializeToString()
        self.in_flight.append(batch)
        self.in_flight_wall_ms.append(now.wall_ms)
        self.batch = Batch(lsn=batch.lsn + 1)
        self.totals.rows += len(rows)
        return SealedBatch(batch.lsn, batch.lsn - 1, self.epoch, now.wall_ms, rows)

    def settled(self, lsn: int) -> Batch:
        """Forgets the batch in flight that has been written, and returns it."""
        self.sweep_blocked = False
        batch = self.in_flight.popleft()
        self.in_flight_wall_ms.popleft()
        assert batch.lsn == lsn
        for purge in batch.purges:
            self.purges.set(purge, 0)
        return batch

    def _extension_row(self, claim: Claim) -> bytes:
        row = rows_pb2.ExtensionRow()
        for task_id, (_, granted) in claim.extended.items():
            delivery = self.deliveries.get(task_id)
            if granted > claim.lease_ms and delivery is not None and delivery.claim is claim:
                row.queues.append(delivery.home.queue.number)
                row.homes.append(keys.pack_home(delivery.home.index, delivery.position))
                row.lease_ms.append(granted)
        return row.SerializeToString()

    def _forget_over_claims(self) -> None:
        """Limits the lists of claims to about the number of live claims, even if a long lease comes first."""
        claims = self.claims
        most = 2 * len(claims) + OVER_CLAIMS_MAX
        if len(self.claim_order) > most:
            self.claim_order = deque(token for token in self.claim_order if token in claims)
        while self.claim_order and self.claim_order[0] not in claims:
            self.claim_order.popleft()
        if self.lease_ends.count > most:
            self.lease_ends.keep(claims)

    def _list_ended(self, batch: Batch, now: Now) -> None:
        if batch.revived:
            batch.ended = list((Counter(batch.ended) - Counter(batch.revived)).elements())
        settings = self.settings
        kinds = [(keys.ENDED_COMPLETED, settings.retention_ms, batch.completed)]
        for kind, keep_ms in ((0, settings.retention_ms), (keys.ENDED_DEAD, settings.dlq_retention_ms)):
            kinds.append((kind, keep_ms, [(queue, home) for queue, home, to_dlq in batch.ended if to_dlq == kind]))
        for kind, keep_ms, ended in kinds:
            for kept_ms, part in self.policies.by_retention(ended, kind, keep_ms):
                self._put_lists(batch, part, now.wall_ms + kept_ms, kind)
        if batch.kept_until is not None and (self.sweep_at is None or batch.kept_until < self.sweep_at):
            self.sweep_at = batch.kept_until

    def _put_lists(self, batch: Batch, ended: list[tuple[int, int]], until: int, kind: int) -> None:
        """Writes the lists of ended tasks in the order of places: the sweep reads and deletes neighbours together."""
        ended.sort()
        for number, first in enumerate(range(0, len(ended), ENDED_ROW_MAX)):
            part = ended[first : first + ENDED_ROW_MAX]
            queues = [queue for queue, _ in part]
            row = rows_pb2.EndedRow(
                lsn=batch.lsn,
                queues=queues[:1] if queues[0] == queues[-1] else queues,
                homes=[home for _, home in part],
            )
            batch.rows[keys.ended_key(until, batch.lsn, kind | number * 2)] = row.SerializeToString()
            batch.kept_until = min(until, batch.kept_until or until)
