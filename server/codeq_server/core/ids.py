"""Task ids: version 8 UUIDs that contain the location of the task's home row.

Fields, in the order of the hex digits: queue (32 bits) - epoch (bits 29..14) - version, epoch (bits 13..2) - variant,
epoch (bits 1..0), lane (4), position (bits 47..40) - position (bits 39..0), route (8). With several shards, the route
byte is the first one with which the id's hash leads to the shard that made it; with one shard, it is zero.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha1
from typing import Final, NamedTuple

EPOCH_BITS: Final = 30
EPOCH_MAX: Final = (1 << EPOCH_BITS) - 1
POSITION_MAX: Final = (1 << 48) - 1
ROUTE: Final = "00"
"""The route byte of ids where there is one shard."""

UUID_DIGITS: Final = 36
"""Characters of a UUID."""
HEADS_MAX: Final = 4096
"""Heads of ids whose hashes are kept."""
LED_DIGITS: Final = 32
"""Characters of a UUID that `Route.lead` never changes."""

_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_OFFSET: Final = (0xCBF29CE4, 0x84222325)
"""Offset basis of FNV-1a with 64 bits, upper and lower half."""
_PRIME: Final = 0x1B3
"""The prime of FNV-1a with 64 bits, less 2**40."""
_HALF: Final = 0xFFFFFFFF
_DIGITS: Final = "0123456789abcdef"
SHARDS_MAX: Final = 32
"""Maximum number of shards: the route byte must tell them apart."""
HASHED_MAX: Final = 1024
"""Characters of a text that decide its shard: more than valid ids and keys have, so that no other text costs more."""


def fnv(text: str, high: int = _OFFSET[0], low: int = _OFFSET[1]) -> tuple[int, int]:
    """Returns the FNV-1a hash of a text's UTF-8 bytes, 64 bits as upper and lower half.

    Args:
        text: The text.
        high: Upper half of the hash of what precedes the text.
        low: Lower half of it.
    """
    # In halves, so that no product exceeds a machine word, in which compiled code is fast.
    for byte in text.encode():
        low ^= byte
        product = low * _PRIME
        high = (high * _PRIME + (low << 8) + (product >> 32)) & _HALF
        low = product & _HALF
    return high, low


_head_hash = lru_cache(HEADS_MAX)(fnv)
"""Hashes of the first LED_DIGITS of UUIDs: ids of 256 neighbours share them."""


def hash_of(text: str) -> int:
    """Returns the FNV-1a hash of a text, 64 bits; see HASHED_MAX."""
    if len(text) == UUID_DIGITS:
        high, low = _head_hash(text[:LED_DIGITS])
        high, low = fnv(text[LED_DIGITS:], high, low)
    else:
        high, low = fnv(text[:HASHED_MAX])
    return (high << 32) + low


def shard_of(text: str, count: int) -> int:
    """Returns which of `count` shards a task id leads to: its FNV-1a hash modulo their number."""
    return hash_of(text) % count


class Route:
    """The way to one of several shards, which the ids of its tasks show.

    Args:
        shard: Index of the shard.
        count: Number of shards, 2 to SHARDS_MAX.
    """

    __slots__ = ("_bytes", "_modulus", "count", "shard")

    def __init__(self, shard: int, count: int) -> None:
        self.shard, self.count = shard, count
        self._modulus = (1 << 32) % count
        self._bytes: list[dict[str, str]] = [{} for _ in range(count)] if count & (count - 1) == 0 else []
        """Route bytes by the lowest bits of the hash of the first digits, and by the digits after those.

        If the number of shards is a power of two, nothing else decides them. There are at most 256 each.
        """

    def byte(self, high: int, low: int, text: str) -> str:
        """Returns the route byte of an id, as two hex digits.

        Args:
            high: Upper half of the hash of the id's first digits.
            low: Lower half of it.
            text: The id's two digits after those and before the route byte.

        Returns:
            Empty: no route byte leads to the shard. That happens with some numbers of shards from 25 on.
        """
        if not self._bytes:
            return self._first(*fnv(text, high, low))
        known = self._bytes[low & (self.count - 1)]
        byte = known.get(text)
        if byte is None:
            byte = known[text] = self._first(*fnv(text, high, low))
        return byte

    def _first(self, high: int, low: int) -> str:
        """Returns the first route byte that leads to the shard, given the hash of what precedes it."""
        for first in _DIGITS:
            upper, lower = fnv(first, high, low)
            for second in _DIGITS:
                top, bottom = fnv(second, upper, lower)
                if (top * self._modulus + bottom) % self.count == self.shard:
                    return first + second
        return ""

    def lead(self, uuid: str) -> str:
        """Returns a UUID that leads to the shard: the given one, or one that differs from it in its last digits."""
        if shard_of(uuid, self.count) == self.shard:
            return uuid
        high, low = fnv(uuid[:LED_DIGITS])
        byte, number = "", int(uuid[LED_DIGITS : LED_DIGITS + 2], 16)
        while not byte:
            byte = self.byte(high, low, f"{number & 0xFF:02x}")
            number += 1
        return f"{uuid[:LED_DIGITS]}{number - 1 & 0xFF:02x}{byte}"


class PlaceIds:
    """The ids of a lane's places where there are several shards, or were; neighbours share a head and its hash.

    Args:
        queue: Number of the queue.
        lane: The lane.
        route: Leads to the shard; None: there is one shard.
    """

    __slots__ = ("_hash", "_head", "_head_of", "_lane", "_queue", "_route")

    def __init__(self, queue: int, lane: int, route: Route | None) -> None:
        self._queue, self._lane, self._route = queue, lane, route
        self._head, self._hash = "", (0, 0)
        self._head_of = (-1, -1)

    def of(self, position: int, epoch: int) -> str:
        """Returns the id of the task at a position; empty: no id of this place leads to the shard."""
        of = (position >> 8, epoch)
        if of != self._head_of:
            head = id_head(self._queue, self._lane, position, epoch)
            self._head = f"{head}{position >> 8 & 0xFFFFFFFF:08x}"
            self._head_of = of
            self._hash = fnv(self._head)
        last = f"{position & 0xFF:02x}"
        end = ROUTE if self._route is None else self._route.byte(*self._hash, last)
        return f"{self._head}{last}{end}" if end else ""

    def hash_of(self, task_id: str) -> int:
        """Returns the hash of the id that was returned last."""
        high, low = fnv(task_id[LED_DIGITS:], *self._hash)
        return (high << 32) + low


class TaskRef(NamedTuple):
    """The content of an id: the task's home place, and the epoch in which the task was created."""

    queue: int
    lane: int
    position: int
    epoch: int


def id_head(queue: int, lane: int, position: int, epoch: int) -> str:
    """Returns the part of an id that is the same for 2**40 positions of a lane in an epoch."""
    middle = (epoch & 3) << 12 | lane << 8 | position >> 40
    return f"{queue:08x}-{epoch >> 14:04x}-8{epoch >> 2 & 0xFFF:03x}-{0x8000 | middle:04x}-"


def make_id(head: str, position: int, route: str = ROUTE) -> str:
    """Returns the id of a position, given its `id_head` and its route byte."""
    return f"{head}{position & 0xFFFFFFFFFF:010x}{route}"


def task_id(queue: int, lane: int, position: int, epoch: int) -> str:
    """Returns the id of the task with this home."""
    return make_id(id_head(queue, lane, position, epoch), position)


def derived(namespace: bytes, name: str) -> bytes:
    """Returns the bytes of the UUID of version 5 that derives from a namespace and a name."""
    digest = bytearray(sha1(namespace + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)


def uuid_text(value: bytes) -> str:
    """Returns the text of a UUID, given its 16 bytes."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_id(text: str) -> TaskRef | None:
    """Returns the content of an id, whatever its route byte, or None if the text does not have the form of an id."""
    if not _FORM.fullmatch(text):
        return None
    middle = int(text[19:23], 16)
    epoch = int(text[9:13], 16) << 14 | int(text[15:18], 16) << 2 | middle >> 12 & 3
    position = (middle & 0xFF) << 40 | int(text[24:34], 16)
    return TaskRef(int(text[:8], 16), middle >> 8 & 0xF, position, epoch)
