"""Callbacks: the report of a task's end to the task's webhook, kept in rows until the receiver has it.

The batch that ends a task adds the callback to the outbox of its queue. First attempts are made in that order. After a
failed attempt, or while its receiver is busy, a callback waits in the index of retries. The caller makes the attempts;
all that counts is in rows, so after a restart or under another leader nothing is lost, and what was under way is tried
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from codeq_internal.v1 import rows_pb2

from . import ids, keys
from .clock import Now
from .errors import CorruptRows
from .model import Lane, Queue, id_of
from .outbox import Outbox
from .parsing import UNREADABLE, parsed, unreadable
from .shard import Shard
from .status import Status
from .task_bytes import trace_context_of, webhook_of

TURN = 16
"""Callbacks taken in one turn of a tenant."""
LOOK_MAX = 256
"""Rows of an outbox examined in one turn; after a restart, many callbacks after the mark may have been delivered."""
LEASE_MS: Final = 60_000
"""Time after which a retry that was taken is due again, unless its attempt has ended."""
ATTEMPTS_KEPT: Final = 10
"""Latest attempts kept of each callback."""
CALLBACKS_KEPT = 10
"""Ends of a task for which callbacks are kept; a redrive drops the oldest, delivered or not."""
ERROR_CHARACTERS_KEPT: Final = 256
"""Characters kept of the error of an attempt."""
RETRY_AFTER_MAX_MS: Final = 3_600_000
"""Longest wait for which a receiver can ask."""
_AGAIN: Final = frozenset({0, 408, 425, 429})
"""Statuses, besides 5xx, after which a callback is tried again; 0: no answer."""

_NEW: Final = rows_pb2.CALLBACK_STATE_UNSPECIFIED
_WAITING: Final = rows_pb2.CALLBACK_STATE_WAITING
_DELIVERED: Final = rows_pb2.CALLBACK_STATE_DELIVERED
_GAVE_UP: Final = rows_pb2.CALLBACK_STATE_GAVE_UP


class Callback(NamedTuple):
    """A callback to attempt now.

    Attributes:
        queue: Queue of the task.
        position: Position in the queue's outbox.
        delivery_id: Id, the same in every attempt.
        url: Where to send it.
        task_id: The task.
        status: Status with which the task ended.
        result: Result of the task; None: it has none.
        error: Error of the task; empty: it has none.
        artifacts: Artifacts of the result.
        ended_ms: Time of the end in Unix milliseconds.
        attempt: Number of this attempt, from 1.
        traceparent: Trace context of the task; empty: it has none.
        tracestate: Its part that vendors fill; empty: it has none.
    """

    queue: Queue
    position: int
    delivery_id: str
    url: str
    task_id: str
    status: Status
    result: bytes | None
    error: str
    artifacts: Sequence[rows_pb2.ArtifactRow]
    ended_ms: int
    attempt: int
    traceparent: str = ""
    tracestate: str = ""


class Call(NamedTuple):
    """An attempt that has ended.

    Attributes:
        at_ms: Start in Unix milliseconds.
        status: HTTP status of the answer; 0: there was none.
        duration_ms: Duration.
        error: Reason for which there was no answer.
        retry_after_ms: Wait for which the receiver asked.
    """

    at_ms: int
    status: int
    duration_ms: int
    error: str = ""
    retry_after_ms: int = 0


# -- the life of a callback ------------------------------------------------------------------------------------------


def add_callback(shard: Shard, home: Lane, position: int, status: Status, now: Now) -> bytes:
    """Adds the callback of a task that ends now, if it has a webhook.

    Args:
        shard: Shard that owns the task.
        home: Lane of the task's home.
        position: Position of its home.
        status: Status with which it ends.
        now: Time of the end.

    Returns:
        The part of the task's state row that lists the callback; empty: the task has no webhook.
    """
    queue = home.queue
    if not webhook_at(shard, home, position)[0]:
        return b""
    outbox = queue.outbox
    if outbox is None:
        outbox = queue.outbox = Outbox(queue)
    outbox.tail += 1
    outbox.pending += 1
    row = rows_pb2.OutboxRow(
        home=keys.pack_home(home.index, position),
        status=status,
        ended_ms=now.wall_ms,
        ended_lsn=shard.batch.lsn,
        epoch=shard.epoch,
    )
    shard.batch.rows[keys.outbox_key(queue.number, outbox.tail)] = row.SerializeToString()
    shard.outboxes.set(outbox, 0)
    shard.affect().calls = True
    return rows_pb2.StateRow(callbacks=[outbox.tail]).SerializeToString()


def take_first(shard: Shard, room: Callable[[str], int], now: Now) -> tuple[Queue, list[Callback]] | None:
    """Takes callbacks of the queue whose turn it is for their first attempt; `settle` or `put_off` ends each.

    Args:
        shard: The shard.
        room: Returns how many callbacks of a tenant may be taken. A queue whose tenant has no room gets no further
            turns until `give_turns`.
        now: The time.

    Returns:
        The queue, and callbacks of it; None: there is none to attempt.
    """
    outbox = shard.outboxes.turn(now.wall_ms)
    if outbox is None:
        return None
    queue, most = outbox.queue, min(TURN, room(outbox.tenant))
    found: list[Callback] = []
    last = min(outbox.tail, outbox.taken + LOOK_MAX)
    while len(found) < most and outbox.taken < last:
        outbox.taken += 1
        row = row_at(shard, queue, outbox.taken)
        if row is not None and row.state == _NEW:
            found.append(_to_attempt(shard, queue, outbox.taken, row))
            outbox.open.add(outbox.taken)
    if outbox.move_mark():
        shard.touch(queue)
    shard.outboxes.rest(outbox, 0 if most > 0 and outbox.taken < outbox.tail else None, now.wall_ms)
    return queue, found


def take_again(shard: Shard, room: Callable[[str], int], now: Now) -> tuple[Queue, list[Callback]] | None:
    """Takes callbacks that are due for another attempt, like `take_first`.

    Until `settle` or `put_off`, each is listed as due in LEASE_MS: if the server dies, it is tried again then.
    """
    due = shard.retries.take(now.wall_ms, TURN, room)
    if due is None:
        return None
    queue = due[0]
    found: list[Callback] = []
    for entry in due[1]:
        _, due_ms, _, position = keys.split_time_key(entry)
        row = row_at(shard, queue, position)
        if row is None or row.state != _WAITING or row.due_ms != due_ms:
            raise CorruptRows(entry[: keys.TIME_KEY_BYTES], "leads to no callback that waits for this time")
        found.append(_to_attempt(shard, queue, position, row))
        _wait_until(shard, queue, position, row, now.wall_ms + LEASE_MS)
        _put(shard, queue, position, row)
    return queue, found


def give_turns(shard: Shard, queue: Queue) -> None:
    """Gives a queue its turns again, after its tenant had no room."""
    outbox = queue.outbox
    if outbox is not None and shard.queues.get(queue.number) is queue:
        if outbox.taken < outbox.tail:
            shard.outboxes.set(outbox, 0)
        line = queue.timelines.get(keys.RETRIES)
        if line is not None and line.count:
            shard.retries.alarms.set(line, 0)


def settle(shard: Shard, callback: Callback, call: Call, delays_ms: Sequence[int], random: float, now: Now) -> str:
    """Records an attempt of a callback, and decides what follows.

    Args:
        shard: The shard.
        callback: The callback, taken earlier.
        call: The attempt.
        delays_ms: Delays before further attempts. After the last one the callback is given up.
        random: Uniform in [0, 1), for the jitter that is added to the delay.
        now: The time.

    Returns:
        "delivered", "retried" or "gave_up"; empty: another attempt ended the callback, or its task is gone.
    """
    row = _pending(shard, callback)
    if row is None:
        return ""
    queue, position = callback.queue, callback.position
    outbox = _outbox(queue)
    said = call.error if len(call.error) <= ERROR_CHARACTERS_KEPT else f"{call.error[: ERROR_CHARACTERS_KEPT - 1]}…"
    row.attempts.append(
        rows_pb2.CallRow(at_ms=call.at_ms, status=call.status, duration_ms=call.duration_ms, error=said)
    )
    del row.attempts[:-ATTEMPTS_KEPT]
    row.tries += 1
    row.attempts_total += 1
    delivered = 200 <= call.status < 300
    again = call.status in _AGAIN or call.status >= 500
    if again and row.tries <= len(delays_ms):
        delay_ms = max(delays_ms[row.tries - 1], min(call.retry_after_ms, RETRY_AFTER_MAX_MS))
        _wait_until(shard, queue, position, row, now.wall_ms + delay_ms + int(delay_ms * random / 10))
        outcome = "retried"
    else:
        outbox.pending -= 1
        outbox.gave_up += not delivered
        row.state, row.due_ms = (_DELIVERED if delivered else _GAVE_UP), 0
        outcome = "delivered" if delivered else "gave_up"
    _put(shard, queue, position, row)
    return outcome


def put_off(shard: Shard, callback: Callback, wait_ms: int, now: Now) -> None:
    """Has a callback that was taken wait, because its receiver is busy; this is not an attempt."""
    row = _pending(shard, callback)
    if row is not None:
        _wait_until(shard, callback.queue, callback.position, row, now.wall_ms + max(wait_ms, 1))
        _put(shard, callback.queue, callback.position, row)


def replay(shard: Shard, queue: Queue, position: int, row: rows_pb2.OutboxRow, now: Now) -> bool:
    """Has a callback that was given up, or waits, attempted at once, with all its retries; returns whether it was."""
    if row.state not in {_WAITING, _GAVE_UP}:
        return False
    outbox = _outbox(queue)
    if row.state == _WAITING:
        shard.retries.remove(queue, row.due_ms, keys.OUTBOX_LANE, position)
    else:
        outbox.pending += 1
        outbox.gave_up -= 1
    row.tries = 0
    _wait_until(shard, queue, position, row, now.wall_ms + 1)
    _put(shard, queue, position, row)
    shard.affect().calls = True
    return True


def hasten(shard: Shard, queue: Queue, position: int, row: rows_pb2.OutboxRow, now: Now) -> None:
    """Has a callback that waits attempted at once; its attempts go on counting."""
    shard.retries.remove(queue, row.due_ms, keys.OUTBOX_LANE, position)
    _wait_until(shard, queue, position, row, now.wall_ms + 1)
    _put(shard, queue, position, row)
    shard.affect().calls = True


# -- the task of a callback ------------------------------------------------------------------------------------------


def is_pending(shard: Shard, queue: Queue, state: rows_pb2.StateRow) -> bool:
    """Returns whether a callback of an ended task is still to be delivered."""
    rows = [row_at(shard, queue, position) for position in state.callbacks]
    return any(row is not None and row.state in {_NEW, _WAITING} for row in rows)


def forget_callbacks(shard: Shard, queue: Queue, positions: Sequence[int]) -> None:
    """Deletes callbacks of a task that is removed, or redriven; the caller marks the queue as changed."""
    outbox = _outbox(queue)
    for position in positions:
        row = row_at(shard, queue, position)
        if row is None:
            continue
        outbox.pending -= row.state in {_NEW, _WAITING}
        outbox.gave_up -= row.state == _GAVE_UP
        if row.state == _WAITING:
            shard.retries.remove(queue, row.due_ms, keys.OUTBOX_LANE, position)
        shard.batch.rows[keys.outbox_key(queue.number, position)] = None


def carry_into_next_life(shard: Shard, queue: Queue, state: rows_pb2.StateRow) -> Sequence[int]:
    """Returns the callbacks that a redriven task keeps; `state` is its state row.

    The callback of the end that the redrive undoes is still delivered, with the status and error of that end.
    """
    positions = list(state.callbacks)
    if not positions:
        return positions
    row = row_at(shard, queue, positions[-1])
    if row is None:
        raise CorruptRows(keys.outbox_key(queue.number, positions[-1]), "is missing, yet its task lists it")
    row.error, row.ended_lsn = state.error, 0
    shard.batch.rows[keys.outbox_key(queue.number, positions[-1])] = row.SerializeToString()
    shard.batch.size += len(row.error)
    forget_callbacks(shard, queue, positions[: 1 - CALLBACKS_KEPT])
    return positions[1 - CALLBACKS_KEPT :]


def callbacks_at(shard: Shard, home: Lane, position: int) -> list[tuple[int, rows_pb2.OutboxRow]]:
    """Returns the callbacks of the task with this home, each with its position in the outbox, oldest first."""
    state = shard.state(home, position)
    found = [(each, row_at(shard, home.queue, each)) for each in (state.callbacks if state is not None else ())]
    return [(each, row) for each, row in found if row is not None]


def row_at(shard: Shard, queue: Queue, position: int) -> rows_pb2.OutboxRow | None:
    """Returns the callback at a position of an outbox."""
    key = keys.outbox_key(queue.number, position)
    value = shard.get(key)
    return None if value is None else parsed(rows_pb2.OutboxRow, key, value)


def adopt(shard: Shard, queue: Queue, state: rows_pb2.OutboxState) -> None:
    """Takes over a stored outbox."""
    outbox = queue.outbox = Outbox(queue)
    outbox.mark = outbox.taken = state.mark
    outbox.tail, outbox.pending, outbox.gave_up = state.tail, state.pending, state.gave_up
    if outbox.taken < outbox.tail:
        shard.outboxes.set(outbox, 0)
    if state.retry_mark or state.retries:
        shard.retries.adopt(queue, state.retries, state.retry_mark)


def delivery_id(queue: Queue, position: int, row: rows_pb2.OutboxRow) -> str:
    """Returns the id of a callback; with several shards, its route byte is the number of the shard."""
    head = ids.id_head(queue.number, keys.OUTBOX_LANE, position, row.epoch)
    return ids.make_id(head, position, ids.ROUTE if queue.route is None else f"{queue.route.shard:02x}")


def _pending(shard: Shard, callback: Callback) -> rows_pb2.OutboxRow | None:
    """Returns the row of a callback whose attempt ends, no longer listed anywhere; None: it is no longer pending."""
    queue, position = callback.queue, callback.position
    row, outbox = row_at(shard, queue, position), _outbox(queue)
    if position in outbox.open:
        outbox.open.remove(position)
        if outbox.move_mark():
            shard.touch(queue)
    if row is None or row.state not in {_NEW, _WAITING}:
        return None
    if row.state == _WAITING:
        shard.retries.remove(queue, row.due_ms, keys.OUTBOX_LANE, position)
    return row


def _wait_until(shard: Shard, queue: Queue, position: int, row: rows_pb2.OutboxRow, due_ms: int) -> None:
    row.state, row.due_ms = _WAITING, due_ms
    shard.retries.put(queue, due_ms, keys.OUTBOX_LANE, position, b"")


def _put(shard: Shard, queue: Queue, position: int, row: rows_pb2.OutboxRow) -> None:
    shard.batch.rows[keys.outbox_key(queue.number, position)] = row.SerializeToString()
    shard.touch(queue)


def _outbox(queue: Queue) -> Outbox:
    if queue.outbox is None:
        raise CorruptRows(queue.key, "has callbacks, but no outbox")
    return queue.outbox


def webhook_at(shard: Shard, home: Lane, position: int) -> tuple[str, bytes]:
    """Returns the webhook (empty: none) and the value of a task's home."""
    key = keys.place_key(home.task_prefix, position)
    value = shard.get(key)
    if value is None:
        raise CorruptRows(key, "the home of an ended task is missing")
    try:
        return webhook_of(keys.task_bytes(value)).decode(), value
    except UNREADABLE:
        raise unreadable(key) from None


def _to_attempt(shard: Shard, queue: Queue, position: int, row: rows_pb2.OutboxRow) -> Callback:
    """Returns a callback with its content, which is in the rows of its task."""
    key = keys.outbox_key(queue.number, position)
    index, home_position = keys.unpack_home(row.home)
    home = shard.lane_named(key, queue.number, index)
    url, value = webhook_at(shard, home, home_position)
    result, error = None, row.error
    artifacts: Sequence[rows_pb2.ArtifactRow] = ()
    if row.ended_lsn:
        state = shard.state(home, home_position)
        if state is None or state.ended_lsn != row.ended_lsn:
            raise CorruptRows(key, "reports an end that its task does not have")
        result, error = state.result if state.HasField("result") else None, state.error
        artifacts = state.artifacts
    return Callback(
        queue,
        position,
        delivery_id(queue, position, row),
        url,
        id_of(home.key_of(home_position, value)),
        Status(row.status),
        result,
        error,
        artifacts,
        row.ended_ms,
        row.attempts_total + 1,
        *_trace_context(key, value),
    )


def _trace_context(key: bytes, home: bytes) -> tuple[str, str]:
    try:
        return trace_context_of(keys.task_bytes(home))
    except UNREADABLE:
        raise unreadable(key) from None
