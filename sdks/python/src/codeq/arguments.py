"""Checks the arguments of producers, clients and workers before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeVar

SECONDS_MAX: Final = 86_400
"""Maximum timeout and drain time: a day."""

WORKER_NAME_CHARACTERS_MAX: Final = 64
"""Maximum characters of a worker name."""

CLIENT_NAME_CHARACTERS_MAX: Final = 128
"""Maximum characters of a producer name."""

_Word = TypeVar("_Word")
_is_worker_name = re.compile(rf"[A-Za-z0-9._-]{{0,{WORKER_NAME_CHARACTERS_MAX}}}").fullmatch


def seconds(value: float, name: str) -> float:
    """Returns a number of seconds, over 0 and at most SECONDS_MAX; errors call the argument `name`.

    Raises:
        TypeError: The value is not a number.
        ValueError: The value is out of range or NaN.
    """
    if not _is_number(value):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value <= SECONDS_MAX:  # false for NaN
        raise ValueError(f"{name} must be over 0 and at most {SECONDS_MAX} seconds")
    return value


def seconds_or_zero(value: float, name: str) -> float:
    """Returns a number of seconds as `seconds` does, but also accepts 0."""
    return value if _is_number(value) and value == 0 else seconds(value, name)


def whole(value: int, name: str, most: int) -> int:
    """Returns a whole number from 1 to `most`; errors call the argument `name`.

    Raises:
        TypeError: The value is not an int.
        ValueError: The value is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be 1 to {most}")
    return value


def one_of(value: _Word, name: str, words: tuple[_Word, ...]) -> _Word:
    """Returns a value that is one of the words; errors call the argument `name`.

    Raises:
        ValueError: It is none of them.
    """
    if value not in words:
        raise ValueError(f"{name} must be {' or '.join(map(repr, words))}")
    return value


def worker_name(name: str) -> str:
    """Returns a worker's name; empty: none.

    Raises:
        TypeError: The name is not a str.
        ValueError: The server would reject the name.
    """
    if not _is_worker_name(_text(name, "name")):
        raise ValueError(f"name must be at most {WORKER_NAME_CHARACTERS_MAX} characters of A-Z a-z 0-9 . _ -")
    return name


def client_name(name: str) -> str:
    """Returns a producer's name; empty: none.

    Raises:
        TypeError: The name is not a str.
        ValueError: The server would reject the name.
    """
    if len(_text(name, "client_name")) > CLIENT_NAME_CHARACTERS_MAX:
        raise ValueError(f"client_name must be at most {CLIENT_NAME_CHARACTERS_MAX} characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError("client_name contains an unpaired surrogate") from None
    return name


def addresses(given: str | Iterable[str]) -> list[str]:
    """Returns the addresses of a comma-separated str, or of several strs.

    Raises:
        TypeError: The argument is neither.
    """
    known = given.split(",") if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(each, str) for each in known):
        raise TypeError(f"address must be a str such as localhost:9092, or several of them, not {given!r}")
    return [each.strip() for each in known if each.strip()]


def several(given: Iterable[str], name: str) -> list[str]:
    """Returns the strs of an iterable; a bare str is rejected, since each of its characters would count as one.

    Raises:
        TypeError: The argument is a str itself, or an item is not a str.
    """
    texts = [given] if isinstance(given, str | bytes) else list(given)
    if isinstance(given, str | bytes) or not all(isinstance(each, str) for each in texts):
        raise TypeError(f"{name} must be a list of str, not {_kind(given, texts)}")  # not its text: it may be a secret
    return texts


def _kind(given: Iterable[object], items: Iterable[object]) -> str:
    if isinstance(given, str | bytes):
        return type(given).__name__
    return "of " + next(type(each).__name__ for each in items if not isinstance(each, str))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value
