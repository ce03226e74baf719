"""Keys of tasks that a policy finds in their payloads, by JSON pointers (RFC 6901)."""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from .new_task import TaskKeys

KEY_CHARACTERS_MAX: Final = 128

_is_index = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch


class KeyPaths(NamedTuple):
    """Pointers to the keys of tasks that name none; empty: such tasks have no such key."""

    concurrency: str = ""
    rate: str = ""
    ordering: str = ""


NO_KEY_PATHS: Final = KeyPaths()


def found_keys(paths: KeyPaths, own: TaskKeys, payload: bytes) -> TaskKeys:
    """Returns the keys that the pointers find in a payload, without those that the task names itself.

    Raises:
        ValueError: A pointer finds something that cannot be a key; the text says what.
    """
    wanted = [pointer if not name else "" for pointer, name in zip(paths, own[:3], strict=True)]
    if not any(wanted):
        return TaskKeys()
    try:
        document = json.loads(payload, parse_float=str)
    except (ValueError, RecursionError):
        raise ValueError("is nested too deeply, or has too long a number, for the queue's key paths") from None
    found = [_key_at(document, pointer) if pointer else "" for pointer in wanted]
    return TaskKeys(found[0], found[1], found[2])


def _key_at(document: object, pointer: str) -> str:
    """Returns the key that a pointer finds; empty: it finds nothing, or null."""
    for token in pointer[1:].split("/"):
        if isinstance(document, dict):
            document = document.get(token.replace("~1", "/").replace("~0", "~"))
        elif isinstance(document, list) and _is_index(token) is not None and int(token) < len(document):
            document = document[int(token)]
        else:
            return ""
    if document is None:
        return ""
    if isinstance(document, bool):
        return "true" if document else "false"
    key = "" if isinstance(document, (dict, list)) else str(document)
    if not 0 < len(key) <= KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable():
        text = f"has no valid key at {pointer}, where the queue's policy expects a string of 1 to {KEY_CHARACTERS_MAX} "
        raise ValueError(f"{text}printable ASCII characters, a number, a boolean, null or nothing")
    return key
