"""Text of anything: what people give as an error or a reason is never refused, whatever it is."""

from __future__ import annotations

from typing import Final

TEXT_CHARACTERS_MAX: Final = 4096
"""Most characters of an error or of a reason; longer ones are cut, and end with a mark."""

_CUT_MARK: Final = "…"


def text_of(value: object) -> str:
    """The text of a value: an exception with its type, bytes as UTF-8, None as nothing. Never raises."""
    if value is None:
        return ""
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode(errors="replace")
        text = str(value)
        if isinstance(value, BaseException):
            name = type(value).__name__
            text = f"{name}: {text}" if text else name
        return text[:]  # of str itself, also where a subclass came
    except BaseException:  # noqa: BLE001 - the value's own code runs here, and nobody must lose a task to it
        return f"{type(value).__name__} without a text"


def printable(value: object) -> str:
    """The text of a value as the server takes it: at most TEXT_CHARACTERS_MAX, unpaired surrogates as U+FFFD."""
    text = text_of(value)
    if len(text) > TEXT_CHARACTERS_MAX:
        text = text[: TEXT_CHARACTERS_MAX - 1] + _CUT_MARK
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
