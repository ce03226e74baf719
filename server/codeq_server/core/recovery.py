"""Opens a shard from its rows: the cost depends on running tasks and existing queues, not on waiting tasks.

Windows are read at first use. Leases restart at full length, because it is unknown how long no server was running.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import partial

from codeq_internal.v1 import rows_pb2

from . import keys, tenant_keys
from .callbacks import adopt as adopt_outbox
from .clock import Now
from .deliveries import Claim, Delivery
from .errors import CorruptRows
from .gate_recovery import adopt_blocked, adopt_returned, adopt_running
from .lease_rows import lease_row
from .metering import totals_of
from .model import Lane, Queue, TaskKey
from .parsing import RowReader, listed, parsed, unpacked
from .purging import adopt as adopt_purge
from .rates import Rates
from .schedules import adopt as adopt_schedule
from .shard import Shard, ShardSettings
from .subscriptions import adopt as adopt_subscription
from .usage import adopt as adopt_limits

PAGE = 1024


def open_shard(rows: RowReader, settings: ShardSettings, epoch: int, wall_ms: int, mono_ms: int) -> Shard:
    """Returns a shard with everything in memory that it needs to serve.

    Args:
        rows: The stored rows; the identity row with `epoch` is already durable.
        settings: Settings.
        epoch: Epoch of this opening, greater than every earlier one.
        wall_ms: Unix milliseconds.
        mono_ms: Monotonic milliseconds.

    Raises:
        CorruptRows: Rows contradict each other.
    """
    shard = Shard(rows, settings, epoch)
    identity = rows.get(keys.IDENTITY)
    if identity is not None and parsed(rows_pb2.IdentityRow, keys.IDENTITY, identity).resharded:
        shard.resharded = True
    value = rows.get(keys.TICK)
    tick = rows_pb2.TickRow() if value is None else parsed(rows_pb2.TickRow, keys.TICK, value)
    shard.batch.lsn = tick.lsn + 1
    shard.start_clock(tick.wall_ms, mono_ms)
    shard.sweep_mark = tick.sweep_mark
    now = shard.at(wall_ms, mono_ms)
    shard.directory.last_queue = tick.last_queue
    for key, value in _all(rows, *keys.table_rows(keys.QUEUES)):
        _adopt_queue(shard, key, parsed(rows_pb2.QueueRow, key, value), now)
    for tenant in shard.directory.tenants.values():
        tenant.commands.sort()
    _adopt_settings(shard, rows)
    for key, value in _all(rows, *keys.leases_from(tick.oldest_lease)):
        _adopt_claim(shard, key, parsed(rows_pb2.LeaseRow, key, value), now)
    for key, value in _all(rows, *keys.table_rows(keys.RETURNED)):
        number, index, position = keys.split_place_key(key)
        lane = shard.lane_named(key, number, index)
        heapq.heappush(lane.returned, (position, *unpacked(keys.split_pointer, key, value)))
        if lane.queue.ring is not None:
            adopt_returned(shard, lane.queue, lane.queue.ring, key, value)
    adopt_blocked(shard)
    first = rows.scan(*keys.ended_after(shard.sweep_mark), 1)
    shard.sweep_at = keys.split_ended_key(first[0][0])[0] if first else None
    shard.audit.adopt(rows)
    for key, value in _all(rows, *keys.table_rows(keys.SUBSCRIPTIONS)):
        adopt_subscription(shard, key, value)
    return shard


def _adopt_settings(shard: Shard, rows: RowReader) -> None:
    """Reads what administrators have set."""
    for key, value in _all(rows, *keys.table_rows(keys.TENANTS)):
        adopt_limits(shard, key, value)
    for key, value in _all(rows, *keys.table_rows(keys.SCHEDULES)):
        adopt_schedule(shard.schedules, key, value)
    for key, value in _all(rows, *keys.table_rows(keys.TOPICS)):
        shard.policies.adopt(key, value)
    for key, value in _all(rows, *keys.table_rows(keys.ENDPOINTS)):
        owner = unpacked(tenant_keys.split_endpoint_key, key, key)
        shard.endpoints.put(*owner, parsed(rows_pb2.EndpointRow, key, value))


def _all(rows: RowReader, start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    while True:
        page = rows.scan(start, end, PAGE)
        found += page
        if len(page) < PAGE:
            return found
        start = page[-1][0] + b"\0"


def _adopt_queue(shard: Shard, key: bytes, row: rows_pb2.QueueRow, now: Now) -> None:
    number = keys.queue_of(key)
    if number > shard.directory.last_queue:
        raise CorruptRows(key, f"is above the number of the most recently opened queue, {shard.directory.last_queue}")
    queue = Queue(number, row.tenant, row.command, shard.settings.route)
    for state in row.lanes:
        if state.lane > keys.PARKED_LANE:
            raise CorruptRows(key, f"has a lane {state.lane}, which no queue has")
        queue.lanes[state.lane] = Lane(queue, state.lane, mark=state.mark, tail=state.tail, ready=state.ready)
    queue.claimed, queue.dlq = row.claimed, row.dlq
    queue.completed_total, queue.failed_total = row.completed_total, row.failed_total
    queue.created_total, queue.paused = row.created_total, row.paused
    queue.named, queue.removed_total, queue.filed = row.named, row.removed_total, row.filed
    queue.hooked = row.hooked
    queue.delivered_total, queue.accepted_bytes = row.delivered_total, row.accepted_bytes_total
    queue.removed_bytes = row.accepted_bytes_total - row.stored_bytes
    if row.HasField("purge"):
        adopt_purge(shard, queue, row.purge)
    if row.keyed:
        queue.keep_keys().keyed = True
        queue.blocked = row.blocked
    queue.rates = Rates(row.created_total, row.completed_total)
    queue.meter.seen = totals_of(queue)
    shard.adopt(queue)
    if row.due_mark or row.scheduled:
        shard.due.adopt(queue, row.scheduled, row.due_mark)
    if row.expire_mark or row.expiring:
        shard.expiry.adopt(queue, row.expiring, row.expire_mark)
    if row.HasField("outbox"):
        adopt_outbox(shard, queue, row.outbox)
    tenant = shard.directory.tenants[queue.tenant]
    tenant.commands.append(queue.command)
    tenant.numbers.append(number)
    tenant.count(queue)
    if queue.unused:
        shard.directory.idle.add(queue, now.mono_ms, shard.settings.queue_idle_ms)


def _adopt_claim(shard: Shard, key: bytes, row: rows_pb2.LeaseRow, now: Now) -> None:
    token = keys.token_of(key)
    claim = Claim(
        token, row.worker, row.subject or row.worker, row.lease_ms, row.claimed_ms, now.mono_ms + row.lease_ms
    )
    granted = _grants(shard, token)
    places, befores = _aligned(key, row.places, row), _aligned(key, row.attempts, row)
    for index, (number, packed) in enumerate(listed(key, row.queues, row.homes)):
        home = _home(shard, key, number, packed, places[index])
        if home is None:
            continue
        lane, position, value = home
        state = shard.state(lane, position)
        if state is not None and state.ended_token >= token:
            continue
        task_id = unpacked(partial(lane.key_of, position), keys.place_key(lane.task_prefix, position), value)
        adopt_running(lane, position, value)
        place, attempts = places[index], befores[index]
        if task_id in shard.deliveries:
            raise CorruptRows(key, f"task {task_id} is live in two claims")
        shard.deliveries[task_id] = Delivery(claim, lane, position, place, attempts)
        claim.task_ids.append(task_id)
        claim.live += 1
        if state is not None:
            _note_earlier(claim, task_id, state)
        length = granted.get((number, packed), 0)
        if length > claim.lease_ms:
            claim.extended[task_id] = (now.mono_ms + length, length)
    if not claim.live:
        shard.batch.rows[key] = None
        shard.batch.rows[keys.extension_key(token)] = None
        return
    if granted and not claim.extended:  # otherwise nothing would delete the grants of deliveries that have ended
        shard.batch.rows[keys.extension_key(token)] = None
    shard.claims[token] = claim
    shard.claim_order.append(token)
    shard.lease_ends.add(shard.deliveries[claim.task_ids[0]].home.queue.tenant, claim.until, token)
    if len(claim.task_ids) < len(row.homes):
        shard.batch.rows[key] = lease_row(claim, [shard.deliveries[i] for i in claim.task_ids])


def _note_earlier(claim: Claim, task_id: TaskKey, state: rows_pb2.StateRow) -> None:
    """Notes the parts of a leased task's state row that must be kept when the task ends."""
    claim.again.add(task_id)
    if state.HasField("progress"):
        claim.progressed.add(task_id)


def _aligned(key: bytes, values: Sequence[int], row: rows_pb2.LeaseRow) -> Sequence[int]:
    """Returns one value for each task that a lease row lists; an empty list stands for zeros."""
    if values and len(values) != len(row.homes):
        raise CorruptRows(key, "places or attempts do not match the tasks that it lists")
    return values or [0] * len(row.homes)


def _home(shard: Shard, key: bytes, number: int, packed: int, place: int) -> tuple[Lane, int, bytes] | None:
    """Returns lane, position and value of a home in a lease row; None: the home was removed, perhaps with its queue."""
    index, position = keys.unpack_home(packed)
    value = shard.get(keys.place_key(keys.lane_prefix(keys.TASKS, number, index), position))
    if value is None:
        return None
    if place:
        shard.lane_named(key, number, keys.unpack_home(place & (1 << 56) - 1)[0])
    return shard.lane_named(key, number, index), position, value


def _grants(shard: Shard, token: int) -> dict[tuple[int, int], int]:
    value = shard.get(keys.extension_key(token))
    if value is None:
        return {}
    key = keys.extension_key(token)
    row = parsed(rows_pb2.ExtensionRow, key, value)
    if len(row.homes) != len(row.lease_ms):
        raise CorruptRows(key, "lengths do not match the tasks that it lists")
    return dict(zip(listed(key, row.queues, row.homes), row.lease_ms, strict=True))
