"""Reading stored rows and their values."""

from __future__ import annotations

from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from .errors import CorruptRows

M = TypeVar("M", bound=Message)


class RowReader(Protocol):
    """Reads written rows. Calls cost microseconds; see docs/adr/0004."""

    def get(self, key: bytes) -> bytes | None:
        """Returns the value, or None."""
        ...

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns at most `limit` rows of [start, end) in the order of keys."""
        ...


def parsed(kind: type[M], key: bytes, value: bytes) -> M:
    """Returns the message that a row holds.

    Raises:
        CorruptRows: It holds none.
    """
    try:
        return kind.FromString(value)
    except DecodeError:
        raise CorruptRows(key, f"holds no {kind.DESCRIPTOR.name}") from None
