"""The keys of all rows of a shard, in one table, and the values that are not protobuf messages.

| prefix | key after the prefix                     | value                                        |
|--------|------------------------------------------|----------------------------------------------|
| m      | name                                     | IdentityRow, TickRow                         |
| q      | queue u32                                | QueueRow                                     |
| t      | queue u32, lane u8, position u48         | home, dead or parked home, pointer (below)   |
| s      | home: queue u32, lane u8, position u48   | StateRow                                     |
| l      | lease token u64                          | LeaseRow                                     |
| x      | lease token u64                          | ExtensionRow                                 |
| d      | queue u32, due ms u64, lane, position    | lane u8, attempts u16, state row 0|1         |
| e      | queue u32, expiry ms u64, lane, position | empty                                        |
| u      | place: queue u32, lane u8, position u48  | pointer                                      |
| r      | end of retention ms u64, LSN u64, n u16  | EndedRow; see ENDED_DEAD, ENDED_COMPLETED    |
| z      | queue u32, end ms u64, lane, position    | empty                                        |
| i      | tenant length u8, tenant, task id        | NameRow                                      |
| n      | tenant, or _default                      | TenantRow                                    |
| a      | time ms u64, number u64                  | AuditRow                                     |
| c      | tenant length u8, tenant, schedule       | ScheduleRow                                  |
| f      | tenant length u8, tenant, schedule       | FireRow                                      |
|        | length u8, schedule, number of fire u64  |                                              |
| p      | tenant length u8, tenant, command        | TopicRow                                     |
| w      | tenant length u8, tenant, id: 16 bytes   | SubscriptionRow                              |
| o      | queue u32, position u48                  | OutboxRow                                    |
| y      | queue u32, due ms u64, 14, position      | empty                                        |
| k      | tenant length u8, tenant, endpoint       | EndpointRow                                  |
| b      | queue u32, gate 16 bytes, number u64     | home: lane u8, position u48; line (below)    |

All numbers are big-endian, so that keys sort by time and by place. Values of "t" and "u":

    home     "h", epoch u32, task bytes
    dead     "x", epoch u32, task bytes      (a home whose task was cancelled or expired while it waited there)
    parked   "k", epoch u32, due ms u64, lane u8, task bytes      (created with a delay; always in lane 15)
    pointer  "p", home lane u8, home position u48, attempts u16   (a later place of the same queue's task)

A gate is the kind of a key ("c" concurrency, "o" ordering, "r" rate) and a digest of the key. Rows "b" of concurrency
and rate gates list the tasks that wait for their key. Rows "b" of an ordering gate list every task of the key that has
not ended; its row with number 0 is its line: "number of the first task u64, number of the last u64, home of the first".

A task whose id the server did not assign (chosen by the producer, or derived from an idempotency key) is "named": the
highest bit of the epoch in its home is set, and its id, preceded by its length as u8, comes before the task bytes.

The task bytes are a serialised codeq.v1.Task with the fields that never change: command, payload, priority,
max_attempts, created_at and expire_at. Deliveries append the rest to them.

No other module builds keys, with one exception: `create_in` and `end_task` append a position to a lane's prefix
themselves, once for each task, because the call would cost as much as the rest of the row.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

FORMAT: Final = 2
"""Format of the rows; a store with a newer format is rejected. Format 2 adds callbacks (rows "o" and "y") and
keys of tasks (rows "b"), with the fields that refer to them. A store of format 1 needs no conversion."""

IDENTITY: Final = b"midentity"
TICK: Final = b"mtick"

META: Final = b"m"
QUEUES: Final = b"q"
TASKS: Final = b"t"
STATES: Final = b"s"
LEASES: Final = b"l"
EXTENSIONS: Final = b"x"
DUE: Final = b"d"
"""Table of scheduled tasks, by due time."""
EXPIRY: Final = b"e"
"""Table of tasks that may expire, by expiry time."""
RETURNED: Final = b"u"
ENDED: Final = b"r"
DEAD_LETTERS: Final = b"z"
NAMES: Final = b"i"
TENANTS: Final = b"n"
BLOCKED: Final = b"b"
"""Table of the tasks that wait for their key, and of the order of tasks with an ordering key."""
AUDIT: Final = b"a"
"""Table of audit records, in the order in which they were made; their numbers have no gaps."""
SCHEDULES: Final = b"c"
FIRES: Final = b"f"
"""Table of the last fires of schedules."""
TOPICS: Final = b"p"
"""Table of the policies of commands."""
SUBSCRIPTIONS: Final = b"w"

OUTBOX: Final = b"o"
"""Table of callbacks, in the order in which their tasks ended."""
RETRIES: Final = b"y"
"""Table of callbacks that wait for another attempt, by due time."""
ENDPOINTS: Final = b"k"

QUEUE_NUMBER_MAX: Final = (1 << 32) - 1
"""Largest queue number; numbers are never reused."""
LANES: Final = 10
"""Lanes 0 to 9 hold priorities 9 to 0."""
OUTBOX_LANE: Final = 14
"""Number in place of a lane in ids of callbacks and in their index of retries; no task has its home there."""
PARKED_LANE: Final = 15
"""Lane of the homes of tasks created with a delay."""

HOME: Final = b"h"
DEAD: Final = b"x"
PARKED: Final = b"k"
POINTER: Final = b"p"
NAMED_EPOCH: Final = 1 << 31
"""Bit set in the epoch of a named task's home."""
HOME_HEAD: Final = 5
"""Bytes before the task bytes in a home's value."""
PARKED_HEAD: Final = 14
"""Bytes before the task bytes in a parked home's value."""

ENDED_DEAD: Final = 1
"""Bit set in the number of a list of tasks in the dead-letter queue."""
ENDED_COMPLETED: Final = 1 << 15
"""Bit set in the number of a list of tasks that all completed: such ends are final."""

_PARKED = struct.Struct(">cIQB")
_POINTER = struct.Struct(">cB6sH")
_DUE_VALUE = struct.Struct(">BHB")
_ENDED_KEY = struct.Struct(">cQQH")
_TIME_KEY = struct.Struct(">cIQB6s")
_AUDIT_KEY = struct.Struct(">cQQ")
_BLOCKED_KEY = struct.Struct(">cI16sQ")
_LINE = struct.Struct(">QQ7s")

GATE_BYTES: Final = 16
"""Length of a gate."""
CONCURRENCY_GATE: Final = b"c"
ORDERING_GATE: Final = b"o"
RATE_GATE: Final = b"r"

TIME_KEY_BYTES: Final = _TIME_KEY.size
"""Length of a key in a table ordered by queue and time."""
KEY_BYTES: Final = {
    QUEUES: 5,
    TASKS: 12,
    STATES: 12,
    LEASES: 9,
    EXTENSIONS: 9,
    DUE: TIME_KEY_BYTES,
    EXPIRY: TIME_KEY_BYTES,
    RETURNED: 12,
    ENDED: _ENDED_KEY.size,
    DEAD_LETTERS: TIME_KEY_BYTES,
    AUDIT: _AUDIT_KEY.size,
    OUTBOX: 11,
    RETRIES: TIME_KEY_BYTES,
    BLOCKED: _BLOCKED_KEY.size,
}
"""Length of the keys of each table with keys of a fixed length."""


# -- ranges --------------------------------------------------------------------------------------------------------


def table_rows(table: bytes) -> tuple[bytes, bytes]:
    """Returns the range of a table's keys: its start, and its exclusive end."""
    return table, bytes((table[0] + 1,))


def queue_prefix(table: bytes, queue: int) -> bytes:
    """Returns the prefix of a queue's keys in a table whose keys begin with the queue."""
    return table + queue.to_bytes(4, "big")


def queue_rows(table: bytes, queue: int) -> tuple[bytes, bytes]:
    """Returns the range of a queue's keys in a table whose keys begin with the queue."""
    return queue_prefix(table, queue), queue_prefix(table, queue + 1)


def queue_of(key: bytes) -> int:
    """Returns the queue in a key that begins with the queue; 0 if the key is empty."""
    return int.from_bytes(key[1:5], "big")


def leases_from(token: int) -> tuple[bytes, bytes]:
    """Returns the range of the keys of leases from this token on."""
    return lease_key(token), table_rows(LEASES)[1]


def ended_after(mark: bytes) -> tuple[bytes, bytes]:
    """Returns the range of the lists of ended tasks after the sweep's mark."""
    return ENDED + mark + b"\0", table_rows(ENDED)[1]


def audited_after(key: bytes) -> tuple[bytes, bytes]:
    """Returns the range of the audit records after a key; empty: of all records."""
    start, end = table_rows(AUDIT)
    return max(start, key + b"\0"), end


def audited_between(from_ms: int, to_ms: int) -> tuple[bytes, bytes]:
    """Returns the range of the audit records from a time on, before another time."""
    return audit_key(from_ms, 0), audit_key(to_ms, 0)


# -- keys ----------------------------------------------------------------------------------------------------------


def queue_key(queue: int) -> bytes:
    """Returns the key of a queue's row."""
    return queue_prefix(QUEUES, queue)


def lane_prefix(table: bytes, queue: int, lane: int) -> bytes:
    """Returns the prefix of the keys of a lane's rows in table "t", "s" or "u"; a position follows."""
    return queue_prefix(table, queue) + bytes((lane,))


def place_key(prefix: bytes, position: int) -> bytes:
    """Returns the key of a place in the lane of `prefix`."""
    return prefix + position.to_bytes(6, "big")


def returned_key(task_prefix: bytes, position: int) -> bytes:
    """Returns the key of a place in the index of returned tasks; `prefix` is its lane's prefix in table "t"."""
    return RETURNED + task_prefix[1:] + position.to_bytes(6, "big")


def state_key(home: bytes) -> bytes:
    """Returns the key of the state row of the task with this home, given as in `home_of`."""
    return STATES + home


def home_of(key: bytes) -> bytes:
    """Returns the home in the key of a home or a state row: queue, lane and position."""
    return key[1:]


def home_key(state_key: bytes) -> bytes:
    """Returns the key of the home of the task with this state row."""
    return TASKS + state_key[1:]


def packed_key(table: bytes, packed: int) -> bytes:
    """Returns the key in table "t", "s" or "u" whose queue, lane and position are this number."""
    return table + packed.to_bytes(11, "big")


def split_packed_key(key: bytes) -> int:
    """Returns queue, lane and position of a key of table "t", "s" or "u" as one number."""
    return int.from_bytes(key[1:], "big")


def split_place_key(key: bytes) -> tuple[int, int, int]:
    """Returns queue, lane and position of a key of table "t", "s" or "u"."""
    return queue_of(key), key[5], int.from_bytes(key[6:12], "big")


def lease_key(token: int) -> bytes:
    """Returns the key of a claim's lease row."""
    return LEASES + token.to_bytes(8, "big")


def extension_key(token: int) -> bytes:
    """Returns the key of a claim's extension row."""
    return EXTENSIONS + token.to_bytes(8, "big")


def token_of(key: bytes) -> int:
    """Returns the lease token in the key of a lease or extension row."""
    return int.from_bytes(key[1:], "big")


def time_key(table: bytes, queue: int, time_ms: int, lane: int, position: int) -> bytes:
    """Returns the key of the task with this home in table "d", "e" or "z", which are ordered by queue and time."""
    return _TIME_KEY.pack(table, queue, time_ms, lane, position.to_bytes(6, "big"))


def split_time_key(key: bytes) -> tuple[int, int, int, int]:
    """Returns queue and time, and the home's lane and position; bytes after the key are ignored."""
    _, queue, time_ms, lane, position = _TIME_KEY.unpack_from(key)
    return queue, time_ms, lane, int.from_bytes(position, "big")


def time_bound(prefix: bytes, time_ms: int) -> bytes:
    """Returns the start of a queue's keys from this time on; `prefix` is the common prefix of the queue's keys."""
    return prefix + time_ms.to_bytes(8, "big")


def time_of(key: bytes) -> int:
    """Returns the time in a key of a table ordered by queue and time."""
    return int.from_bytes(key[5:13], "big")


def due_value(lane: int, attempts: int, *, has_state: bool) -> bytes:
    """Returns the value of a due row: lane of the priority, attempts so far, whether a state row exists."""
    return _DUE_VALUE.pack(lane, attempts, has_state)


def split_due_value(value: bytes) -> tuple[int, int, bool]:
    """Returns lane, attempts and whether a state row exists."""
    lane, attempts, has_state = _DUE_VALUE.unpack(value)
    return _lane(lane), attempts, bool(has_state)


def ended_key(until_ms: int, lsn: int, number: int) -> bytes:
    """Returns the key of a list of ended tasks whose retention ends at `until_ms`."""
    return _ENDED_KEY.pack(ENDED, until_ms, lsn, number)


def split_ended_key(key: bytes) -> tuple[int, int, int]:
    """Returns the end of retention, LSN and number."""
    _, until_ms, lsn, number = _ENDED_KEY.unpack(key)
    return until_ms, lsn, number


def outbox_key(queue: int, position: int) -> bytes:
    """Returns the key of the callback at a position of a queue's outbox."""
    return queue_prefix(OUTBOX, queue) + position.to_bytes(6, "big")


def split_outbox_key(key: bytes) -> tuple[int, int]:
    """Returns queue and position of a callback."""
    return queue_of(key), int.from_bytes(key[5:11], "big")


def audit_key(at_ms: int, number: int) -> bytes:
    """Returns the key of an audit record."""
    return _AUDIT_KEY.pack(AUDIT, at_ms, number)


def split_audit_key(key: bytes) -> tuple[int, int]:
    """Returns time and number of an audit record."""
    _, at_ms, number = _AUDIT_KEY.unpack(key)
    return at_ms, number


def gate(kind: bytes, key: str) -> bytes:
    """Returns the gate of the tasks with this key of this kind."""
    return kind + hashlib.blake2b(key.encode(), digest_size=GATE_BYTES - 1).digest()


def blocked_key(queue: int, of_gate: bytes, number: int) -> bytes:
    """Returns the key of a task's row at a gate; number 0: of the line of an ordering gate."""
    return _BLOCKED_KEY.pack(BLOCKED, queue, of_gate, number)


def split_blocked_key(key: bytes) -> tuple[int, bytes, int]:
    """Returns queue, gate and number."""
    _, queue, of_gate, number = _BLOCKED_KEY.unpack(key)
    return queue, of_gate, number


def gate_rows(queue: int, of_gate: bytes) -> tuple[bytes, bytes]:
    """Returns the range of the keys of a gate's tasks."""
    return blocked_key(queue, of_gate, 1), blocked_key(queue, of_gate, (1 << 64) - 1)


def kind_rows(queue: int, kind: bytes) -> tuple[bytes, bytes]:
    """Returns the range of the rows at a queue's gates of one kind."""
    prefix = queue_prefix(BLOCKED, queue)
    return prefix + kind, prefix + bytes((kind[0] + 1,))


def after_gate(key: bytes) -> bytes:
    """Returns a key after all rows of the gate that a row "b" belongs to."""
    return key[: 5 + GATE_BYTES] + b"\xff" * 9


def blocked_value(home: int) -> bytes:
    """Returns the value of a task's row at a gate: its packed home."""
    return home.to_bytes(7, "big")


def split_blocked_value(value: bytes) -> int:
    """Returns the packed home."""
    if len(value) != 7:
        raise ValueError("no home")
    _lane(value[0])
    return int.from_bytes(value, "big")


def line(first: int, last: int, home: int) -> bytes:
    """Returns the line of an ordering gate: numbers of the first and the last task, and packed home of the first."""
    return _LINE.pack(first, last, blocked_value(home))


def split_line(value: bytes) -> tuple[int, int, int]:
    """Returns the numbers of the first and the last task, and the packed home of the first."""
    first, last, home = _LINE.unpack(value)
    return first, last, split_blocked_value(home)


def dead_key(queue: int, ended_ms: int, lane: int, position: int) -> bytes:
    """Returns the key of the task with this home in the dead-letter index."""
    return time_key(DEAD_LETTERS, queue, ended_ms, lane, position)


def split_dead_key(key: bytes) -> tuple[int, int, int, int]:
    """Returns queue, end time, lane and position of the home."""
    return split_time_key(key)


def home_head(epoch: int) -> bytes:
    """Returns the head of a home's value."""
    return HOME + epoch.to_bytes(4, "big")


def parked_head(epoch: int, due_ms: int, lane: int) -> bytes:
    """Returns the head of a parked home's value; `lane` is the lane of the task's priority."""
    return _PARKED.pack(PARKED, epoch, due_ms, lane)


def home_epoch(value: bytes) -> int:
    """Returns the epoch in which a home's task was created."""
    return int.from_bytes(value[1:5], "big") & ~NAMED_EPOCH


def is_home_of_epoch(value: bytes, epoch: int) -> bool:
    """Returns whether a row is the home of a task that the server named in this epoch."""
    return value[:1] != POINTER and value[1:5] == epoch.to_bytes(4, "big")


def split_parked(value: bytes) -> tuple[int, int]:
    """Returns due time and lane of a parked home."""
    _, _, due_ms, lane = _PARKED.unpack_from(value)
    return due_ms, _lane(lane)


def task_bytes(value: bytes) -> bytes:
    """Returns the task bytes of a home, which are never empty."""
    start = PARKED_HEAD if value[:1] == PARKED else HOME_HEAD
    task = value[start + 1 + value[start] :] if value[1] & 0x80 else value[start:]
    if not task:
        raise ValueError("no task bytes")
    return task


def name_of(value: bytes) -> str:
    """Returns the id of a home's task if it is named; empty: the server assigned the id."""
    if not value[1] & 0x80:
        return ""
    start = PARKED_HEAD if value[:1] == PARKED else HOME_HEAD
    return value[start + 1 : start + 1 + value[start]].decode()


def name_head(task_id: str) -> bytes:
    """Returns the bytes between the head of a named task's home and its task bytes."""
    return bytes((len(task_id),)) + task_id.encode()


def name_key(tenant: str, task_id: str) -> bytes:
    """Returns the key of the row that maps a named task's id to its home."""
    return NAMES + bytes((len(tenant),)) + tenant.encode() + task_id.encode()


def name_beside(key: bytes, task_id: str) -> bytes:
    """Returns the key of the row of another task id of the same tenant."""
    return key[: 2 + key[1]] + task_id.encode()


def is_name_key(key: bytes) -> bool:
    """Returns whether a key of table "i" holds a tenant and an id."""
    return len(key) > 2 + key[1]


def pointer(lane: int, position: int, attempts: int) -> bytes:
    """Returns a pointer to the home (lane, position) of the same queue."""
    return _POINTER.pack(POINTER, lane, position.to_bytes(6, "big"), attempts)


def split_pointer(value: bytes) -> tuple[int, int, int]:
    """Returns lane and position of the home, and attempts."""
    _, lane, position, attempts = _POINTER.unpack(value)
    return _lane(lane), int.from_bytes(position, "big"), attempts


def pack_home(lane: int, position: int) -> int:
    """Returns a home of a known queue as one number, the form used in lists of homes."""
    return lane << 48 | position


def home_keys(table: bytes, queue: int, homes: Iterable[int]) -> list[bytes]:
    """Returns the keys of packed homes in table "t" or "s".

    Raises:
        OverflowError: A home has more bits than a lane and a position.
    """
    prefix = queue_prefix(table, queue)
    return [prefix + home.to_bytes(7, "big") for home in homes]


def unpack_home(home: int) -> tuple[int, int]:
    """Returns lane and position."""
    return home >> 48, home & 0xFFFFFFFFFFFF


def _lane(lane: int) -> int:
    if lane > PARKED_LANE:
        raise ValueError(f"there is no lane {lane}")
    return lane
