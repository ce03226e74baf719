"""JSON as operators write it: strict, since a duplicate key would silently lose one of its values."""

from __future__ import annotations

import json

import msgspec


def decoded(text: str | bytes) -> object:
    """Returns the content of a JSON text.

    Raises:
        ValueError: It is malformed, not UTF-8, nested too deeply, or an object has a duplicate key.
    """
    try:
        content: object = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_refuse_twice)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    return content


def _refuse_twice(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"duplicate key: {key}")
        seen.add(key)
