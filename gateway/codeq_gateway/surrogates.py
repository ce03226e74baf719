r"""Unpaired UTF-16 surrogates in JSON text, as in "\ud83d": the grammar allows them, decoders reject them.

Such text is decoded with every unpaired surrogate marked: a marker that occurs nowhere else in the text replaces the
`\u` of its escape. After decoding the escapes are restored, or rejected in fields that cannot hold them.
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
"""Start of the escape of an unpaired surrogate."""
_ESCAPED_BACKSLASH: Final = b"\\\\"
_REPLACEMENT: Final = "\ufffd"


def mark_unpaired(text: bytes) -> tuple[bytes, bytes]:
    """Returns JSON text with unpaired surrogates marked, and the marker; the same text and b"" if there are none."""
    if b"\\u" not in text:
        return text, b""
    # The second backslash of an escaped backslash does not start an escape.
    backslash, mark = _mark(text, b"!"), _mark(text, b"~")
    plain = text.replace(_ESCAPED_BACKSLASH, backslash)
    marked, count = _UNPAIRED.subn(mark, plain)
    return (marked.replace(backslash, _ESCAPED_BACKSLASH), mark) if count else (text, b"")


def restore(message: Message, mark: bytes) -> None:
    """Undoes the marking in a message that was decoded from marked text.

    Embedded JSON gets its escapes back; in free text each unpaired surrogate becomes U+FFFD.

    Raises:
        BadValueError: A string that is not free text contains an unpaired surrogate.
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
                    raise BadValueError(where, "contains an unpaired surrogate, which is not a character")
                setattr(message, field.name, re.sub(mark.decode() + "[0-9a-fA-F]{4}", _REPLACEMENT, each))


def _mark(text: bytes, first: bytes) -> bytes:
    """Returns a marker that does not occur in the text; it is random, so no client can include every marker."""
    while True:
        mark = first + secrets.token_hex(4).encode()
        if mark not in text:
            return mark
