"""The keys of the contents of artifacts, and of the rows that say that a content is undecided.

The tables are in `keys`. The rows of a file hold an artifact's content, in order from 0; only shards whose rows are
replicated get them. The row about it exists from the first chunk until the result that it belongs to is decided.
"""

from __future__ import annotations

from . import keys


def undecided_key(home: bytes, file: bytes) -> bytes:
    """Returns the key of the row that says that the result with this file of the task with this home is undecided."""
    return keys.UNDECIDED + home + file


def split_undecided_key(key: bytes) -> tuple[bytes, bytes]:
    """Returns home and file."""
    return key[1:12], key[12:]


def undecided_value(chunks: int) -> bytes:
    """Returns the value of the row of an undecided file with this number of chunks."""
    return chunks.to_bytes(2, "big")


def split_undecided_value(value: bytes) -> int:
    """Returns the number of chunks."""
    if len(value) != 2:
        raise ValueError("no number of chunks")
    return int.from_bytes(value, "big")


def content_key(home: bytes, file: bytes, number: int) -> bytes:
    """Returns the key of a chunk of a file."""
    return keys.CONTENTS + home + file + number.to_bytes(2, "big")


def split_content_key(key: bytes) -> tuple[bytes, bytes, int]:
    """Returns home, file and number of a chunk."""
    return key[1:12], key[12:28], int.from_bytes(key[28:], "big")
