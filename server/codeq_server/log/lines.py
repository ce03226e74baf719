"""The form of log lines: one event a line, as text for people or as JSON for machines.

Whatever a value holds, it stays on its line, keeps to its bound, and moves no cursor: what is not printable is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

VALUE_CHARS_MAX: Final = 1024
"""Characters of one value that a line shows."""

LINE_CHARS_MAX: Final = 8 * 1024
"""Characters of all values of a line together, tracebacks apart; the last ones are cut to what is left."""

TRACEBACK_CHARS_MAX: Final = 8 * 1024
"""Characters of a traceback that are shown: its end, which says what happened."""

CUT: Final = "…"
"""Stands where something was cut off."""

TRACEBACK: Final = "exception"
"""Key of a traceback; in text it follows the line, indented."""

_QUOTED: Final = re.compile(r'[\s"=\\]')
_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"
_COLOURS: Final = {"error": _RED, "warn": _YELLOW}
_encode = msgspec.json.Encoder().encode


def bounded(fields: Mapping[str, object]) -> dict[str, object]:
    """Returns the fields of a line with their values cut, and made text unless they are numbers, booleans or None."""
    left, found = LINE_CHARS_MAX, dict[str, object]()
    for key, value in fields.items():
        if value is None or isinstance(value, (bool, int, float)):
            found[key] = value
        elif key == TRACEBACK:
            found[key] = _last("\n".join(map(cut, str(value).splitlines())), TRACEBACK_CHARS_MAX)
        else:
            text = cut(str(value), max(1, min(VALUE_CHARS_MAX, left)))
            left -= len(text)
            found[key] = text
    return found


def cut(text: str, chars: int = VALUE_CHARS_MAX) -> str:
    """Returns a text that fits a line, with a mark where it was cut."""
    return _encodable(text if len(text) <= chars else text[: chars - 1] + CUT)


def json_line(fields: Mapping[str, object]) -> bytes:
    """Returns the line of fields that are bounded."""
    line = _encode(fields)
    if not line.isascii() or b"\x7f" in line:
        line = printable(line.decode()).encode()
    return line + b"\n"


def text_line(fields: Mapping[str, object], *, coloured: bool = False) -> bytes:
    """Returns the line of fields that are bounded, the first three of which are time, level and event."""
    time, level, event, *_ = fields.values()
    mark, reset = (_COLOURS.get(str(level), ""), _RESET) if coloured and level in _COLOURS else ("", "")
    parts = [f"{time} [{mark}{level:<5}{reset}] {printable(str(event))}"]
    parts += (f"{key}={_value(fields[key])}" for key in list(fields)[3:] if key != TRACEBACK)
    line = " ".join(parts) + "\n"
    for part in str(fields.get(TRACEBACK, "")).splitlines():
        line += f"    {printable(part)}\n"
    return line.encode()


def _value(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not _QUOTED.search(text):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def printable(text: str) -> str:
    """Returns a text with what is not printable escaped as JSON does."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def _encodable(text: str) -> str:
    """Returns the text with halves of characters escaped, which no encoding has."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _last(text: str, chars: int) -> str:
    return text if len(text) <= chars else CUT + text[1 - chars :]
