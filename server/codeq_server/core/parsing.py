"""Reading the values of stored rows."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from .errors import CorruptRows

M = TypeVar("M", bound=Message)


def parsed(kind: type[M], key: bytes, value: bytes) -> M:
    """Returns the message that a row holds.

    Raises:
        CorruptRows: It holds none.
    """
    try:
        return kind.FromString(value)
    except DecodeError:
        raise CorruptRows(key, f"holds no {kind.DESCRIPTOR.name}") from None
