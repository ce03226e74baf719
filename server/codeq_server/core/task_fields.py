"""Fields of protobuf messages as bytes, and those of a task's keys."""

from __future__ import annotations

from typing import Final

from .new_task import TaskKeys

CONCURRENCY_KEY: Final = 13
RATE_KEY: Final = 14
ORDERING_KEY: Final = 15

SHORT: Final = 16_384
LENGTHS: Final = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(SHORT)]
"""Varints of numbers below SHORT."""


def varint(number: int) -> bytes:
    """Returns a number as a protobuf varint."""
    if number < SHORT:
        return LENGTHS[number]
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def key_fields(of: TaskKeys) -> bytes:
    """Returns the fields of keys."""
    numbers = (CONCURRENCY_KEY, RATE_KEY, ORDERING_KEY)
    return b"".join([field(number, key.encode()) for number, key in zip(numbers, of[:3], strict=True) if key])
