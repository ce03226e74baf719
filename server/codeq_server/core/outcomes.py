"""How deliveries end: complete, fail, nack, abandon, or the expiry of the lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from . import artifacts as filing
from . import gates, keys
from .backoff import backoff_ms
from .clock import Now
from .dead_letters import heir_of
from .deliveries import Delivery
from .ending import end_task, end_with_state, ended_row
from .errors import CorruptRows, Reason, Rejection
from .history import End, carried_over, note
from .holders import objection, rejection
from .lease_rows import lease_row
from .lookup import find_home, find_live
from .metering import note_completed
from .model import Caller, Entry, Lane, TaskKey
from .notable import DEAD_LETTERED, LEASE_EXPIRED
from .parsing import UNREADABLE, unreadable
from .policy import NO_POLICY
from .shard import Shard
from .status import Outcome, Status
from .task_bytes import max_attempts_of
from .task_fields import varint
from .windows import append, put_back

ABANDONS_MAX = 100
"""Number of times that a task can be abandoned without changing its attempts; later abandons count as deliveries."""
SHRINK_FROM = 16
"""Lease rows with fewer tasks than this are not rewritten when most of their deliveries have ended."""
DELAY_MAX_MS: Final = 12 * 3_600_000
"""Maximum delay after a nack or an abandon."""
EXPIRED_ERROR: Final = "LEASE_EXPIRED"
MAX_ATTEMPTS_ERROR: Final = "MAX_ATTEMPTS"


# Looking up an enum member by name costs as much as a call; these members are used once for each task.
_COMPLETED: Final = Status.COMPLETED
_FINAL: Final = {Outcome.COMPLETED: Status.COMPLETED, Outcome.FAILED: Status.FAILED}

_RESULT_TAG: Final = varint(rows_pb2.StateRow.RESULT_FIELD_NUMBER << 3 | 2)


class Verdict(NamedTuple):
    """The effect of an outcome.

    Attributes:
        status: New status of the task.
        delay_ms: Delay after a nack or an abandon.
        at_ms: Time of the change in Unix milliseconds.
    """

    status: Status
    delay_ms: int
    at_ms: int


def settle(
    shard: Shard,
    caller: Caller,
    task_id: str,
    token: int | None,
    outcome: Outcome,
    result: bytes | None,
    error: str,
    delay_ms: int | None,
    random: float,
    now: Now,
    *,
    artifacts: Sequence[rows_pb2.ArtifactRow] = (),
    park_key: bool = False,
) -> Verdict:
    """Ends a delivery at its worker's request. Repeating the same outcome with the same token returns the same verdict.

    Args:
        shard: Shard that owns the task.
        caller: The worker.
        task_id: Task.
        token: Lease token; None: the token of the caller's live lease, or of its last lease if the task is not leased.
        outcome: COMPLETED, FAILED, NACK or ABANDON.
        result: Result of a COMPLETED, or None.
        error: Error of a FAILED, reason of a NACK.
        delay_ms: Delay of a NACK or ABANDON, at most DELAY_MAX_MS (a longer delay is shortened to it); None: by the
            backoff policy for a NACK, no delay for an ABANDON.
        random: Uniform in [0, 1), for the backoff.
        now: Time of the outcome.
        artifacts: Artifacts of a COMPLETED or FAILED. If an artifact has neither URL nor file, the outcome can only
            repeat an earlier one.
        park_key: Whether the delay of an ABANDON is one of the task's key.

    Raises:
        Rejection: TASK_NOT_FOUND, TASK_NOT_CLAIMED, STALE_LEASE_TOKEN, NOT_LEASE_OWNER.
    """
    key, delivery = find_live(shard, caller.tenant, task_id)
    if delivery is None or objection(delivery, caller, token) is not None:
        return _repeat(shard, delivery, caller, task_id, token, outcome, result, error, artifacts)
    if artifacts and any(not each.url and not each.file for each in artifacts):
        raise Rejection(Reason.TASK_NOT_CLAIMED, "the task was not leased when its artifacts arrived")
    del shard.deliveries[key]
    if outcome is Outcome.COMPLETED or outcome is Outcome.FAILED:
        status = _FINAL[outcome]
        _finish(shard, delivery, key, status, result, error, now)
        if artifacts:
            filing.keep(shard, delivery.home, delivery.position, artifacts)
        return Verdict(status, 0, now.wall_ms)
    if outcome is Outcome.NACK:
        return _nack(shard, delivery, key, error, delay_ms, random, now)
    return give_back(shard, delivery, key, Outcome.ABANDON, now, delay_ms or 0, park_key=park_key)


def complete(shard: Shard, caller: Caller, task_id: str, token: int, result: bytes | None, now: Now) -> bool:
    """Ends a delivery as COMPLETED for its holder: a fast path with the effect of `settle` for the usual case.

    Returns:
        True: the delivery ended. False: the caller is not the holder, or the task is named. Nothing changed; call
            `settle`.
    """
    delivery = shard.deliveries.get(task_id)
    if delivery is None or objection(delivery, caller, token) is not None:
        return False
    del shard.deliveries[task_id]
    _finish(shard, delivery, task_id, _COMPLETED, result, "", now)
    return True


def _finish(
    shard: Shard, delivery: Delivery, task_id: TaskKey, status: Status, result: bytes | None, error: str, now: Now
) -> None:
    claim, home, position, _, attempts = delivery
    of = (status, attempts, now.wall_ms, shard.batch.lsn)
    if claim.head_of != of:
        claim.head_of = of
        claim.aged = None
        state = rows_pb2.StateRow(
            ended_token=claim.token,
            outcome=Outcome.COMPLETED if status is _COMPLETED else Outcome.FAILED,
            attempts=attempts + 1,
            worker=claim.worker,
            subject="" if claim.subject == claim.worker else claim.subject,
            started_ms=claim.claimed_ms,
        )
        claim.head = ended_row(shard, state, status, now)
    row = claim.head
    if result is not None:
        row = b"".join((row, _RESULT_TAG, varint(len(result)), result))
        shard.batch.size += len(result)
        home.queue.accepted_bytes += len(result)
    if error:
        row += rows_pb2.StateRow(error=error).SerializeToString()
    if claim.progressed or claim.again:
        row += _kept(shard, delivery, task_id)
    end_task(shard, home, position, task_id, status, row, now)
    times = home.queue.meter.times
    if times is not None and status is _COMPLETED:
        if claim.aged is home.queue:
            times.latencies.note_again(claim.age_bucket, claim.age_ms)
        else:
            note_completed(times, claim, home.queue, task_id, now.wall_ms)
    leave_claim(shard, delivery)


def _kept(shard: Shard, delivery: Delivery, task_id: TaskKey) -> bytes:
    """Returns the part of a task's state row that is kept when its delivery completes or fails it."""
    claim, home, position, _, _ = delivery
    progressed = task_id in claim.progressed
    before = shard.state(home, position) if progressed or task_id in claim.again else None
    row = b"" if before is None else carried_over(before, progressed=progressed)
    shard.batch.size += len(row)
    return row


def leave_claim(shard: Shard, delivery: Delivery) -> None:
    """Removes an ended delivery from its claim and from the counters."""
    claim, queue = delivery.claim, delivery.home.queue
    queue.claimed -= 1
    if queue.full:
        shard.policies.limit(queue)
    if queue.ring is not None:
        gates.leave(shard, queue, queue.ring, keys.pack_home(delivery.home.index, delivery.position))
    if not queue.touched:
        shard.touch(queue)
    claim.live -= 1
    if not claim.live:
        shard.drop_claim(claim)
        return
    listed = len(claim.task_ids)
    if claim.live * 4 < listed and listed >= SHRINK_FROM:
        live = [i for i in claim.task_ids if (d := shard.deliveries.get(i)) is not None and d.claim is claim]
        claim.task_ids = live
        slots = [shard.deliveries[i] for i in live]
        shard.batch.rows[keys.lease_key(claim.token)] = lease_row(claim, slots)


def _nack(
    shard: Shard, delivery: Delivery, task_id: TaskKey, reason: str, delay_ms: int | None, random: float, now: Now
) -> Verdict:
    attempts = delivery.attempts + 1
    shard.totals.nacked += 1
    if delay_ms is None:
        settings, policy = shard.settings, delivery.home.queue.policy or NO_POLICY
        delay_ms = backoff_ms(
            policy.backoff or settings.backoff_policy,
            policy.backoff_base_seconds or settings.backoff_base_seconds,
            policy.backoff_max_seconds or settings.backoff_max_seconds,
            attempts,
            random,
        )
    state = _ended_state(shard, delivery, Outcome.NACK, End.NACKED, reason, now)
    state.attempts = attempts
    if reason:
        state.error = reason
    return _try_again(shard, delivery, task_id, state, delay_ms, now)


def _ended_state(
    shard: Shard, delivery: Delivery, outcome: Outcome, end: End, error: str, now: Now
) -> rows_pb2.StateRow:
    """Returns the task's state row with the end of this delivery recorded."""
    state = shard.state(delivery.home, delivery.position) or rows_pb2.StateRow()
    claim = delivery.claim
    state.ended_token = claim.token
    state.outcome = outcome
    state.worker = claim.worker
    state.subject = "" if claim.subject == claim.worker else claim.subject
    state.changed_ms = now.wall_ms
    state.delay_ms = 0
    note(state, claim, end, error, now)
    return state


def _lane_and_max(shard: Shard, delivery: Delivery) -> tuple[Lane, int]:
    """Returns the lane of a leased task's priority, and its max_attempts."""
    home = delivery.home
    key = keys.place_key(home.task_prefix, delivery.position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the home of a leased task is missing")
    try:
        lane = home.queue.lane(keys.split_parked(value)[1]) if value[:1] == keys.PARKED else home
        return lane, max_attempts_of(keys.task_bytes(value))
    except UNREADABLE:
        raise unreadable(key) from None


def _try_again(
    shard: Shard, delivery: Delivery, task_id: TaskKey, state: rows_pb2.StateRow, delay_ms: int, now: Now
) -> Verdict:
    """Moves a task that its delivery did not end: to its lane's tail, the due index or the dead letters."""
    home = delivery.home
    lane, max_attempts = _lane_and_max(shard, delivery)
    if state.attempts >= max_attempts:
        return _bury(shard, delivery, task_id, lane, state, now)
    if delay_ms > 0:
        delay_ms = min(delay_ms, DELAY_MAX_MS)
        due_ms = now.wall_ms + delay_ms
        state.status, state.delay_ms = Status.SCHEDULED, delay_ms
        state.place, state.place_lane, state.place_at = rows_pb2.PLACE_KIND_DUE, 0, due_ms
        due = keys.due_value(lane.index, state.attempts, has_state=True)
        shard.due.put(home.queue, due_ms, home.index, delivery.position, due)
    else:
        enqueue(shard, lane, home, delivery.position, state)
    shard.put_state(home, delivery.position, state)
    leave_claim(shard, delivery)
    return Verdict(Status(state.status), delay_ms, now.wall_ms)


def enqueue(shard: Shard, lane: Lane, home: Lane, home_position: int, state: rows_pb2.StateRow) -> None:
    """Gives a task a new place at the tail of its priority's lane; the caller puts the state row."""
    position = lane.tail + 1
    state.status = Status.PENDING
    state.place, state.place_lane, state.place_at = rows_pb2.PLACE_KIND_QUEUED, lane.index, position
    value = keys.pointer(home.index, home_position, state.attempts)
    shard.batch.rows[keys.place_key(lane.task_prefix, position)] = value
    append(shard, lane, Entry(position, "", b"", (home.index, home_position, state.attempts)))
    shard.touch(lane.queue)


def _bury(
    shard: Shard, delivery: Delivery, task_id: TaskKey, lane: Lane, state: rows_pb2.StateRow, now: Now
) -> Verdict:
    """Puts a task into the dead-letter queue; `lane` is that of its priority."""
    if not state.HasField("error"):
        state.error = MAX_ATTEMPTS_ERROR
    shard.batch.notable.note(DEAD_LETTERED, delivery, task_id, state.outcome)
    end_with_state(shard, delivery.home, delivery.position, task_id, Status.DLQ, state, now)
    heir = heir_of(shard, delivery.home, delivery.position, lane, task_id, state, now)
    if heir is not None:
        enqueue(shard, heir.lane, heir.home, heir.position, heir.state)
        shard.put_state(heir.home, heir.position, heir.state)
    leave_claim(shard, delivery)
    return Verdict(Status.DLQ, 0, now.wall_ms)


def give_back(
    shard: Shard,
    delivery: Delivery,
    task_id: TaskKey,
    outcome: Outcome,
    now: Now,
    delay_ms: int = 0,
    *,
    park_key: bool = False,
) -> Verdict:
    """Gives back an unused delivery; the caller has already removed it from `shard.deliveries`.

    The task keeps its attempts, and its place unless it is to wait for `delay_ms` first. Abandons beyond ABANDONS_MAX
    count as deliveries; give-backs by the server (outcome BY_SERVER) are not abandons and have no delay. With
    `park_key`, the delay is one of the task's key if it has one, and the abandon is not counted.
    """
    abandoned, parked_ms = outcome is Outcome.ABANDON, 0
    state = _ended_state(shard, delivery, outcome, End.ABANDONED if abandoned else End.RETURNED, "", now)
    if abandoned:
        state.abandons += not park_key
        shard.totals.abandoned += 1
        if park_key:
            until_ms = now.mono_ms + min(delay_ms, DELAY_MAX_MS)
            until = gates.park(shard, delivery.home, delivery.position, until_ms)
            if until is not None:
                delay_ms, parked_ms = 0, until - now.mono_ms
        is_counted = state.abandons > ABANDONS_MAX and not park_key
        if is_counted or delay_ms > 0:
            state.attempts = delivery.attempts + 1 if is_counted else delivery.attempts
            return _try_again(shard, delivery, task_id, state, delay_ms, now)
    state.attempts = delivery.attempts
    home = delivery.home
    lane, position = home, delivery.position
    if delivery.place:
        index, position = keys.unpack_home(delivery.place & (1 << 56) - 1)
        lane = home.queue.lane(index)
    state.status = Status.PENDING
    state.place, state.place_lane, state.place_at = rows_pb2.PLACE_KIND_RETURNED, lane.index, position
    shard.put_state(home, delivery.position, state)
    if home.queue.ring is not None:
        gates.keep(home.queue.ring, keys.pack_home(home.index, delivery.position))
    put_back(shard, lane, position, (home.index, delivery.position, delivery.attempts))
    leave_claim(shard, delivery)
    return Verdict(Status.PENDING, parked_ms, now.wall_ms)


def expire(shard: Shard, delivery: Delivery, task_id: TaskKey, now: Now) -> Verdict:
    """Ends a delivery whose lease expired: the task goes to its lane's tail at once, or to the dead letters."""
    del shard.deliveries[task_id]
    shard.totals.expired += 1
    delivery.home.queue.meter.lapsed += 1
    state = _ended_state(shard, delivery, Outcome.BY_SERVER, End.LEASE_EXPIRED, "", now)
    state.attempts = delivery.attempts + 1
    state.error = EXPIRED_ERROR
    shard.batch.notable.note(LEASE_EXPIRED, delivery, task_id, Outcome.BY_SERVER)
    return _try_again(shard, delivery, task_id, state, 0, now)


def _repeat(
    shard: Shard,
    delivery: Delivery | None,
    caller: Caller,
    task_id: str,
    token: int | None,
    outcome: Outcome,
    result: bytes | None,
    error: str,
    artifacts: Sequence[rows_pb2.ArtifactRow],
) -> Verdict:
    """Answers an outcome without a live lease: with the stored verdict if it is a repeat, else with a rejection."""
    home, position = find_home(shard, caller.tenant, task_id)
    state = shard.state(home, position)
    # Without a token the outcome is for the last delivery, unless a new delivery is live by now.
    if state is not None and (delivery is None if token is None else state.ended_token == token):
        same = state.outcome == outcome and (state.subject or state.worker) == caller.subject
        if outcome is Outcome.COMPLETED:
            same = same and state.HasField("result") == (result is not None) and state.result == (result or b"")
        elif outcome is Outcome.FAILED:
            same = same and state.error == error
        if same and filing.same(state.artifacts, artifacts):
            # The verdict given at that time, even if the task has become due, been cancelled or expired since.
            since = state.status == Status.CANCELLED or (state.status == Status.FAILED and outcome != Outcome.FAILED)
            status = Status.PENDING if since else Status(state.status)
            status = Status.SCHEDULED if state.delay_ms else status
            return Verdict(status, state.delay_ms, state.changed_ms)
    raise rejection(delivery, caller, token, state)
