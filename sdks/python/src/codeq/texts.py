"""Text of arbitrary objects: an error or reason is never rejected, whatever its type."""

from __future__ import annotations

from typing import Final

TEXT_CHARACTERS_MAX: Final = 4096
"""Maximum characters of an error or reason; a longer one is truncated and ends with an ellipsis."""

_CUT_MARK: Final = "…"


def text_of(value: object) -> str:
    """Returns the text of a value: exceptions with their type, bytes as UTF-8, None as the empty text. Never raises."""
    if value is None:
        return ""
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode(errors="replace")
        text = str(value)
        if isinstance(value, BaseException):
            name = type(value).__name__
            text = f"{name}: {text}" if text else name
        return text[:]  # a plain str, even from a subclass
    except BaseException:  # noqa: BLE001 - runs the value's own code, which must not cost a task its outcome
        return f"{type(value).__name__} without a text"


def printable(value: object) -> str:
    """Returns the text of a value in a form that the server accepts.

    It has at most TEXT_CHARACTERS_MAX characters, and U+FFFD for unpaired surrogates.
    """
    text = text_of(value)
    if len(text) > TEXT_CHARACTERS_MAX:
        text = text[: TEXT_CHARACTERS_MAX - 1] + _CUT_MARK
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
