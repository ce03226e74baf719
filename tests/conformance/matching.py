"""Compares replies with what a case expects of them, and fills variables into requests.

An expectation is JSON. Objects expect at least their fields, lists expect exactly their items, and other values expect
themselves; an expected number also matches the same number as a text, since JSON of protos writes 64-bit numbers so.
A text in PATTERNS expects a kind of value, and an object with a single key that begins with `$` is an operator:

| operator | expects |
|---|---|
| `{$gte: n}`, `{$lte: n}`, `{$between: [m, n]}` | a number in these bounds |
| `{$re: "…"}` | a text in which the expression is found |
| `{$has: [...]}` | a list with an item for each of these, in any order |
| `{$len: n}` | a list or a text of this length; n may be an operator |
| `{$in: [...]}` | one of these values |
| `{$not: x}` | a value that does not match x |
| `{$within: [time, seconds]}` | a time at most so far from another one |

In requests and expectations alike, `${a.b.0}` stands for a variable, `{$repeat: [text, n]}` for a repeated text and
`{$join: [...]}` for texts put together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

ABSENT: Final = object()
"""Stands for a field that is not there."""

_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z"
_VARIABLE: Final = re.compile(r"\$\{([^}]+)\}")
_SHOWN_MAX: Final = 400

PATTERNS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "$any": lambda found: found is not ABSENT,
    "$absent": lambda found: found is ABSENT or found is None,
    "$id": lambda found: isinstance(found, str) and re.fullmatch(_UUID, found) is not None,
    "$time": lambda found: isinstance(found, str) and re.fullmatch(_TIME, found) is not None,
    "$text": lambda found: isinstance(found, str) and found != "",
    "$number": lambda found: _number(found) is not None,
    "$empty": lambda found: found is ABSENT or found in (None, "", [], {}),
    "$zero": lambda found: found is ABSENT or found in (0, "0", False),
}


def mismatch(expected: Any, found: Any, path: str = "reply") -> str | None:
    """Returns the first difference as text; None: the value is as expected."""
    if isinstance(expected, str) and expected in PATTERNS:
        return None if PATTERNS[expected](found) else _told(path, expected, found)
    if found is ABSENT:
        return _told(path, expected, found)
    if isinstance(expected, dict):
        operator = _operator(expected)
        if operator is not None:
            return _OPERATORS[operator](expected[operator], found, path)
        if not isinstance(found, dict):
            return _told(path, expected, found)
        differences = (mismatch(value, found.get(key, ABSENT), f"{path}.{key}") for key, value in expected.items())
        return next((each for each in differences if each), None)
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return _told(path, expected, found)
        pairs = enumerate(zip(expected, found, strict=True))
        return next((each for at, (a, b) in pairs if (each := mismatch(a, b, f"{path}[{at}]"))), None)
    return None if _same(expected, found) else _told(path, expected, found)


def filled(value: Any, variables: Mapping[str, Any]) -> Any:
    """Returns a value with its variables and texts filled in.

    Raises:
        KeyError: A variable is not set.
    """
    if isinstance(value, str):
        whole = _VARIABLE.fullmatch(value)
        if whole is not None:
            return looked_up(variables, whole[1])
        return _VARIABLE.sub(lambda found: str(looked_up(variables, found[1])), value)
    if isinstance(value, list):
        return [filled(each, variables) for each in value]
    if isinstance(value, dict):
        if "$repeat" in value:
            text, count = value["$repeat"]
            return str(text) * int(count)
        if "$join" in value:
            return "".join(str(filled(each, variables)) for each in value["$join"])
        return {key: filled(each, variables) for key, each in value.items()}
    return value


def looked_up(value: Any, path: str) -> Any:
    """Returns the part of a value at a path such as `task.attemptHistory.0.end`.

    Raises:
        KeyError: There is none.
    """
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(f"{part} of {path}") from None
    return value


def _operator(expected: Mapping[str, Any]) -> str | None:
    keys = list(expected)
    return keys[0] if len(keys) == 1 and keys[0] in _OPERATORS else None


def _number(found: Any) -> float | None:
    if isinstance(found, bool):
        return None
    try:
        return float(found)
    except (TypeError, ValueError):
        return None


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, int) and isinstance(found, str):
        return str(expected) == found
    return bool(expected == found)


def _bounds(low: float, high: float, found: Any, path: str) -> str | None:
    number = _number(found)
    return None if number is not None and low <= number <= high else _told(path, f"{low} to {high}", found)


def _has(expected: Any, found: Any, path: str) -> str | None:
    if not isinstance(found, list):
        return _told(path, expected, found)
    missing = [each for each in expected if all(mismatch(each, item) for item in found)]
    return _told(path, {"$has": missing}, found) if missing else None


def _within(expected: Any, found: Any, path: str) -> str | None:
    about, seconds = expected
    if not PATTERNS["$time"](found):
        return _told(path, expected, found)
    apart = abs((datetime.fromisoformat(found) - datetime.fromisoformat(about)).total_seconds())
    return None if apart <= seconds else _told(path, f"{seconds} s from {about}", found)


def _told(path: str, expected: Any, found: Any) -> str:
    return f"{path}: expected {_short(expected)}, found {'nothing' if found is ABSENT else _short(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}… ({len(text)} characters)"


def _sized(expected: Any, found: Any, path: str) -> str | None:
    return mismatch(expected, len(found), f"{path}.length") if hasattr(found, "__len__") else _told(path, "list", found)


_OPERATORS: Final[Mapping[str, Callable[[Any, Any, str], str | None]]] = {
    "$gte": lambda bound, found, path: _bounds(bound, float("inf"), found, path),
    "$lte": lambda bound, found, path: _bounds(float("-inf"), bound, found, path),
    "$between": lambda bounds, found, path: _bounds(bounds[0], bounds[1], found, path),
    "$re": lambda pattern, found, path: (
        None if isinstance(found, str) and re.search(pattern, found) else _told(path, f"/{pattern}/", found)
    ),
    "$has": _has,
    "$len": _sized,
    "$in": lambda values, found, path: (
        None if any(not mismatch(each, found) for each in values) else _told(path, values, found)
    ),
    "$not": lambda other, found, path: None if mismatch(other, found) else _told(path, {"$not": other}, found),
    "$within": _within,
}
