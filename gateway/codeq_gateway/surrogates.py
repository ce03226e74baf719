r"""Halves of UTF-16 surrogate pairs in JSON text, as in "\ud83d": the grammar allows them, decoders refuse them.

Such text is read with every unpaired half marked: the backslash and the letter of its escape give way to a mark that
stands nowhere else in the text. What was read gets its escapes back, or tells that its field cannot hold them.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from google.protobuf.message import Message

from codeq_gateway.fields import BadValueError, is_embedded, is_free_text

_HIGH: Final = rb"[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"[dD][c-fC-F][0-9a-fA-F]{2}"
_UNPAIRED: Final = re.compile(rb"\\u(?:(?=%b(?!\\u%b))|(?<!\\u%b\\u)(?=%b))" % (_HIGH, _LOW, _HIGH, _LOW))
"""Beginning of an escape that is half of a pair without the other half."""
_ESCAPED_BACKSLASH: Final = b"\\\\"
_REPLACEMENT: Final = "\ufffd"


def mark_unpaired(text: bytes) -> tuple[bytes, bytes]:
    """Returns JSON text with its unpaired halves marked, and the mark; the same text and no mark where it has none."""
    if b"\\u" not in text:
        return text, b""
    # No escape begins with the second backslash of an escaped one.
    backslash, mark = _mark(text, b"!"), _mark(text, b"~")
    plain = text.replace(_ESCAPED_BACKSLASH, backslash)
    marked, count = _UNPAIRED.subn(mark, plain)
    return (marked.replace(backslash, _ESCAPED_BACKSLASH), mark) if count else (text, b"")


def restore(message: Message, mark: bytes) -> None:
    """Gives a message that was read from marked text what the text said.

    Raises:
        BadValueError: A text has half of a pair that is not text for people, and so must be what it says.
    """
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        for index, each in enumerate(values):
            where = f"{field.json_name}[{index}]" if field.is_repeated else field.json_name
            if isinstance(each, Message):
                try:
                    restore(each, mark)
                except BadValueError as bad:
                    raise bad.under(where) from None
            elif isinstance(each, bytes) and is_embedded(field):
                setattr(message, field.name, each.replace(mark, b"\\u"))
            elif isinstance(each, str) and mark.decode() in each:
                if not is_free_text(field):
                    raise BadValueError(where, "has half of a surrogate pair, which is no character")
                setattr(message, field.name, re.sub(mark.decode() + "[0-9a-fA-F]{4}", _REPLACEMENT, each))


def _mark(text: bytes, first: bytes) -> bytes:
    """Returns a mark that the text does not have; random, so that nobody can fill a text with all there are."""
    while True:
        mark = first + secrets.token_hex(4).encode()
        if mark not in text:
            return mark
