"""Reads stored rows and their values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from .errors import CorruptRows

M = TypeVar("M", bound=Message)
T = TypeVar("T")

UNREADABLE: Final = (struct.error, IndexError, ValueError)
"""Raised by the functions of `keys` on malformed bytes."""


class RowReader(Protocol):
    """Reads written rows. Calls cost microseconds; see docs/adr/0004."""

    def get(self, key: bytes) -> bytes | None:
        """Returns the value, or None."""
        ...

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` rows of [start, end) in key order."""
        ...

    def scan_back(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` rows of [start, end), last one first."""
        ...


def parsed(kind: type[M], key: bytes, value: bytes) -> M:
    """Returns the message in a row.

    Raises:
        CorruptRows: The row does not hold a message of this kind.
    """
    try:
        return kind.FromString(value)
    except DecodeError:
        raise CorruptRows(key, f"holds no {kind.DESCRIPTOR.name}") from None


def unpacked(unpack: Callable[[bytes], T], key: bytes, value: bytes) -> T:
    """Returns the value of a row that is not a message.

    Raises:
        CorruptRows: The value is malformed.
    """
    try:
        return unpack(value)
    except UNREADABLE:
        raise unreadable(key) from None


def unreadable(key: bytes) -> CorruptRows:
    """Returns the fault of a row whose value is malformed and not a message."""
    return CorruptRows(key, "holds a truncated or malformed value")


def listed(key: bytes, queues: Sequence[int], homes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Returns queue and home of each task that a row lists; a single queue applies to all tasks.

    Raises:
        CorruptRows: Queues and homes do not match.
    """
    if len(queues) == 1:
        return zip(repeat(queues[0]), homes, strict=False)
    if len(queues) != len(homes):
        raise CorruptRows(key, f"lists {len(homes)} tasks of {len(queues)} queues")
    return zip(queues, homes, strict=True)
