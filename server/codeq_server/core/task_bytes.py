"""Task bytes: a serialised codeq.v1.Task, built, read and spliced by hand. The field numbers are those of its proto.

A home stores the fields that never change: command, payload, priority, max_attempts, created_at and expire_at. Each
delivery appends the id and the fields of its lease, so that stored bytes go to the worker without being encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from . import keys
from .model import TaskKey, id_of
from .new_task import TaskKeys
from .status import Status
from .task_fields import CONCURRENCY_KEY, LENGTHS, ORDERING_KEY, RATE_KEY, SHORT, field, varint

_COMMAND: Final = 1
_PAYLOAD_TAG: Final = b"\x12"
_PRIORITY_TAG: Final = b"\x18"
_MAX_ATTEMPTS_TAG: Final = b"\x20"
_CREATED_AT: Final = 16
_CREATED_AT_TAG: Final = b"\x82\x01"
_ID: Final = 20
_ASSIGNED_ID: Final = b"\xa2\x01\x24"
"""Tag of the id, and the length of an id that the server assigned."""
_ASSIGNED_ID_BYTES: Final = 39
"""Length of the whole field of an id that the server assigned."""
_STATUS_TAG: Final = b"\xa8\x01"
_ATTEMPTS_TAG: Final = b"\xb8\x01"
_LEASE_TOKEN_TAG: Final = b"\xc8\x01"
_LEASE_UNTIL: Final = 26
_EXPIRE_AT: Final = 32
_ORIGIN_TASK_ID: Final = 34
_ORIGIN_COMMAND: Final = 35
_TRACE: Final = (11, 12)
"""Fields of the trace context."""
_WEBHOOK: Final = 7
_ORDERING_NUMBER: Final = 36


# -- building ------------------------------------------------------------------------------------------------------


def _timestamp(number: int, unix_ms: int) -> bytes:
    """Returns a field with a google.protobuf.Timestamp."""
    seconds, millis = divmod(unix_ms, 1000)
    content = b"\x08" + varint(seconds)
    if millis:
        content += b"\x10" + varint(millis * 1_000_000)
    return field(number, content)


def task_head(command: str, lane: int, max_attempts: int) -> bytes:
    """Returns the task bytes up to the payload's length; many tasks share them."""
    priority = keys.LANES - 1 - lane
    head = field(_COMMAND, command.encode())
    if priority:
        head += _PRIORITY_TAG + varint(priority)
    return head + _MAX_ATTEMPTS_TAG + varint(max_attempts) + _PAYLOAD_TAG


def created_at(unix_ms: int) -> bytes:
    """Returns the field with the time of acceptance, which tasks of one decision share."""
    return _timestamp(_CREATED_AT, unix_ms)


def ordering_number(number: int) -> bytes:
    """Returns the field with a task's number within its ordering key."""
    return varint(_ORDERING_NUMBER << 3) + varint(number)


def webhook(url: str) -> bytes:
    """Returns the field with the URL of a webhook; empty for no URL."""
    return field(_WEBHOOK, url.encode()) if url else b""


def encode_task(head: bytes, payload: bytes, created: bytes, kept: bytes, expire_ms: int) -> bytes:
    """Returns the task bytes of a new task.

    Args:
        head: The result of `task_head`.
        payload: Payload.
        created: The result of `created_at`.
        kept: Serialised fields that only the producer and the worker read.
        expire_ms: Unix milliseconds at which the task expires if it is still waiting; 0: never.
    """
    size = len(payload)
    raw = b"".join((head, LENGTHS[size] if size < SHORT else varint(size), payload, created, kept))
    return raw + _timestamp(_EXPIRE_AT, expire_ms) if expire_ms else raw


def origin(task_id: str, command: str) -> bytes:
    """Returns the fields of a task created for a dead letter that name the dead letter."""
    return field(_ORIGIN_TASK_ID, task_id.encode()) + field(_ORIGIN_COMMAND, command.encode())


# -- reading -------------------------------------------------------------------------------------------------------


def max_attempts_of(task: bytes) -> int:
    """Returns max_attempts from task bytes, where it follows command and priority."""
    at = 2 + task[1] if task[1] < 128 else 3 + (task[1] & 127 | task[2] << 7)
    if task[at] == _PRIORITY_TAG[0]:
        at += 2
    if task[at] != _MAX_ATTEMPTS_TAG[0]:
        raise ValueError("no task bytes")
    low, high = task[at + 1], task[at + 2]
    return low if low < 128 else low & 127 | high << 7


def created_ms_of(task: bytes) -> int:
    """Returns created_at from task bytes, where it follows the payload, in Unix milliseconds."""
    at = 2 + task[1] if task[1] < 128 else 3 + (task[1] & 127 | task[2] << 7)
    if task[at] == _PRIORITY_TAG[0]:
        at += 2
    at += 2 if task[at + 1] < 128 else 3
    if task[at] != _PAYLOAD_TAG[0]:
        raise ValueError("no task bytes")
    size, at = _varint(task, at + 1)
    at += size
    if task[at] != _CREATED_AT_TAG[0]:
        raise ValueError("no task bytes")
    at += len(_CREATED_AT_TAG)
    return _unix_ms(task[at + 1 : at + 1 + task[at]])


def expire_ms_of(task: bytes) -> int:
    """Returns expire_at from task bytes, in Unix milliseconds; 0: the task does not expire."""
    content = _bytes_field(task, _EXPIRE_AT)
    return 0 if content is None else _unix_ms(content)


def _unix_ms(content: bytes) -> int:
    """Returns the time in the content of a google.protobuf.Timestamp."""
    seconds = nanos = at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, at = _varint(content, at)
        if tag >> 3 == 1:
            seconds = number
        else:
            nanos = number
    return seconds * 1000 + nanos // 1_000_000


def payload_of(task: bytes) -> bytes:
    """Returns the payload from task bytes."""
    return _bytes_field(task, _PAYLOAD_TAG[0] >> 3) or b""


def trace_of(task: bytes) -> bytes:
    """Returns the fields of the trace context from task bytes."""
    fields = [(number, _bytes_field(task, number)) for number in _TRACE]
    return b"".join([field(number, content) for number, content in fields if content is not None])


def trace_context_of(task: bytes) -> tuple[str, str]:
    """Returns traceparent and tracestate from task bytes; empty: the task has none."""
    parent, state = [(_bytes_field(task, number) or b"").decode() for number in _TRACE]
    return parent, state


def webhook_of(task: bytes) -> bytes:
    """Returns the URL of the webhook from task bytes; empty: the task has none."""
    return _bytes_field(task, _WEBHOOK) or b""


def keys_of(task: bytes) -> TaskKeys | None:
    """Returns the keys in task bytes; None: the task has none."""
    concurrency = rate = ordering = ""
    number = at = 0
    end = len(task)
    while at < end:
        # A claim from a queue with keys reads every task: most numbers have one byte, and a call costs more than that.
        tag, size = task[at], task[at + 1]
        at += 2
        if tag > 127 or size > 127:
            tag, at = _varint(task, at - 2)
            size, at = _varint(task, at)
        if tag & 7 == 2:
            kind = tag >> 3
            if kind == CONCURRENCY_KEY:
                concurrency = task[at : at + size].decode()
            elif kind == RATE_KEY:
                rate = task[at : at + size].decode()
            elif kind == ORDERING_KEY:
                ordering = task[at : at + size].decode()
            at += size
        elif tag >> 3 == _ORDERING_NUMBER:
            number = size
    return TaskKeys(concurrency, rate, ordering, number) if concurrency or rate or ordering else None


def _bytes_field(message: bytes, number: int) -> bytes | None:
    """Returns the content of a length-delimited field, in a message that has only such fields and varints."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        size, at = _varint(message, at)
        if tag & 7 == 2:
            if tag >> 3 == number:
                return message[at : at + size]
            at += size
    return None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns a varint and the offset after it."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


# -- deliveries ----------------------------------------------------------------------------------------------------


def splice(
    pieces: list[bytes],
    number: int,
    delivered: Iterable[tuple[TaskKey, bytes, int]],
    token: int,
    until_ms: int,
    *,
    named: bool,
) -> int:
    """Appends the deliveries of a claim to the pieces of a message; returns the size of the tasks in bytes.

    Args:
        pieces: Parts of the message so far.
        number: Field of the message that takes the tasks.
        delivered: Key, task bytes and attempts of each delivery.
        token: Their lease token.
        until_ms: End of their leases in Unix milliseconds.
        named: Whether some ids may not have been assigned by the server.
    """
    tails: dict[int, bytes] = {}
    tag, add, size = varint(number << 3 | 2), pieces.extend, 0
    for key, raw, attempts in delivered:
        tail = tails.get(attempts)
        if tail is None:
            tail = tails[attempts] = _delivery_tail(attempts, token, until_ms)
        if named:
            task = b"".join((raw, field(_ID, id_of(key).encode()), tail))
            length = len(task)
            add((tag, varint(length), task))
        else:
            length = len(raw) + _ASSIGNED_ID_BYTES + len(tail)
            add((tag, varint(length), raw, _ASSIGNED_ID, key.encode(), tail))  # type: ignore[union-attr]
        size += length
    return size


def _delivery_tail(attempts: int, token: int, until_ms: int) -> bytes:
    """Returns the fields after the id that deliveries of a claim share."""
    lease = _ATTEMPTS_TAG + varint(attempts) + _LEASE_TOKEN_TAG + varint(token)
    return _STATUS_TAG + varint(Status.CLAIMED) + lease + _timestamp(_LEASE_UNTIL, until_ms)
