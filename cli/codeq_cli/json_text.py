"""JSON as text: checks values and extracts them without re-encoding.

Payloads and results must be sent and shown byte for byte; parsing and printing them again would lose digits of numbers,
duplicate keys and whitespace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

_SPACE: Final = re.compile(r"[ \t\n\r]*")


class Number(str):
    """A number in a JSON text, kept as written."""

    __slots__ = ()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)


def parse(text: str) -> object:
    """Returns the value of a JSON text, with Number for its numbers.

    Raises:
        ValueError: The text is not one JSON value, or is nested too deeply.
    """
    value, end = _scan(text, _skip_space(text, 0))
    if _skip_space(text, end) != len(text):
        raise ValueError(f"more than one JSON value, at character {end}")
    return value


def members(text: str) -> dict[str, str]:
    """Returns the members of a JSON object, each value as its JSON text.

    Raises:
        ValueError: The text is not one JSON object.
    """
    _check_container(text, "{")
    found: dict[str, str] = {}

    def member(at: int) -> int:
        name, end = _scan(text, at)
        start = _skip_space(text, _skip_space(text, end) + 1)
        end = _scan(text, start)[1]
        found[str(name)] = text[start:end]
        return end

    _each_item(text, member)
    return found


def elements(text: str) -> list[str]:
    """Returns the elements of a JSON array, each as its JSON text.

    Raises:
        ValueError: The text is not one JSON array.
    """
    _check_container(text, "[")
    found: list[str] = []

    def element(at: int) -> int:
        end = _scan(text, at)[1]
        found.append(text[at:end])
        return end

    _each_item(text, element)
    return found


def quote(text: str) -> str:
    """Returns the text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def join(fields: Mapping[str, str]) -> str:
    """Returns a JSON object of fields whose values are JSON texts, inserted unchanged."""
    return "{" + ",".join(f"{quote(name)}:{value}" for name, value in fields.items()) + "}"


def _check_container(text: str, opening: str) -> None:
    parse(text)
    if text[_skip_space(text, 0)] != opening:
        raise ValueError(f"does not begin with {opening}")


def _each_item(text: str, item: Callable[[int], int]) -> None:
    """Calls `item` with the start of each item of a well-formed container; `item` returns the item's end."""
    at = _skip_space(text, _skip_space(text, 0) + 1)
    while text[at] not in "]}":
        at = _skip_space(text, item(at))
        if text[at] == ",":
            at = _skip_space(text, at + 1)


def _scan(text: str, at: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
