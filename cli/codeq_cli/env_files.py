"""Env files: only lines that shells, systemd, Compose and `docker run --env-file` read alike.

A line is empty, a comment that begins with #, or NAME=value, and each name is there once. A value is literal, or quoted
as `shlex.quote` does it. Docker takes quotes for a part of the value, so its files have none.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_LINE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)")
_READ_DIFFERENTLY: Final = re.compile(r"\s#|[$`\\]|^[\"\s]|\s$")
"""In a literal value: comments, references, escapes, other quotes, and spaces at the ends."""


def read(path: Path, *, quotes: bool = True) -> dict[str, str]:
    """Returns the variables of an env file; see `parsed`."""
    return parsed(path.read_text(), quotes=quotes)


def parsed(text: str, *, quotes: bool = True) -> dict[str, str]:
    """Returns the variables in the text of an env file.

    Args:
        text: The text.
        quotes: Whether values may be quoted; not in files for `docker run --env-file`.

    Raises:
        ValueError: A line would be read differently by some program; the message has its number, but no value.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is not NAME=value")
        if match["name"] in found:
            raise ValueError(f"line {number}: {match['name']} is there twice")
        found[match["name"]] = _value(match["value"], f"line {number}: {match['name']}", quotes=quotes)
    return found


def line(name: str, value: str) -> str:
    """Returns the line of a variable, with the value quoted if need be.

    Raises:
        ValueError: The value has control characters, such as the end of a line.
    """
    if any(unicodedata.category(each) == "Cc" for each in value):
        raise ValueError(f"{name} has control characters")
    return f"{name}={shlex.quote(value) if value else ''}\n"


def filled(text: str, values: Mapping[str, str]) -> str:
    """Returns the text of an env file with values for some of its variables; its other lines stay."""
    lines = []
    for each in text.splitlines():
        match = _LINE.fullmatch(each)
        name = "" if match is None else match["name"]
        lines.append(line(name, values[name]) if name in values else f"{each}\n")
    return "".join(lines)


def _value(text: str, place: str, *, quotes: bool) -> str:
    if not text.startswith("'"):
        if _READ_DIFFERENTLY.search(text):
            raise ValueError(f"{place}: the value needs quotes")
        return text
    if not quotes:
        raise ValueError(f"{place}: Docker takes quotes as part of the value")
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if len(words) != 1 or text not in {shlex.quote(words[0]), f"'{words[0]}'"}:
        raise ValueError(f"{place}: the value is not quoted as a whole")
    return words[0]
