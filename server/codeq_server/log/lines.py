"""The format of log lines: one event per line, as human-readable text or as JSON.

Whatever a value contains, it stays on its line, within its length limit, and cannot control the terminal: unprintable
characters are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

VALUE_CHARS_MAX: Final = 1024
"""Maximum characters of one value on a line."""

LINE_CHARS_MAX: Final = 8 * 1024
"""Maximum characters of all values of a line, without tracebacks; the last values are truncated to fit."""

TRACEBACK_CHARS_MAX: Final = 8 * 1024
"""Maximum characters of a traceback; its end is kept, which contains the error."""

CUT: Final = "…"
"""Marks where text was truncated."""

TRACEBACK: Final = "exception"
"""Key of a traceback; in the text format it follows the line, indented."""

_QUOTED: Final = re.compile(r'[\s"=\\]')
_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"
_COLOURS: Final = {"error": _RED, "warn": _YELLOW}
_encode = msgspec.json.Encoder().encode


def bounded(fields: Mapping[str, object]) -> dict[str, object]:
    """Returns the fields of a line with values truncated, and converted to text unless number, boolean or None."""
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
    """Returns a text truncated to `chars` characters, with a mark if anything was removed."""
    return _encodable(text if len(text) <= chars else text[: chars - 1] + CUT)


def json_line(fields: Mapping[str, object]) -> bytes:
    """Returns the JSON line of bounded fields."""
    line = _encode(fields)
    if not line.isascii() or b"\x7f" in line:
        line = printable(line.decode()).encode()
    return line + b"\n"


def text_line(fields: Mapping[str, object], *, coloured: bool = False) -> bytes:
    """Returns the text line of bounded fields, the first three of which are time, level and event."""
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
    """Returns a text with unprintable characters escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def _encodable(text: str) -> str:
    """Returns the text with lone surrogates escaped, which cannot be encoded."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _last(text: str, chars: int) -> str:
    return text if len(text) <= chars else CUT + text[1 - chars :]
