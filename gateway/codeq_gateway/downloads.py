"""Replies that are files: the bytes of a field, with headers that make a browser save rather than display them."""

from __future__ import annotations

from urllib.parse import quote

from codeq.options.v1 import options_pb2
from google.protobuf.message import Message


def reply(
    status: int, fields: options_pb2.Download, message: Message
) -> tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]:
    """Returns the HTTP status, body, content type and headers of a response message that is a file."""
    content: bytes = getattr(message, fields.content_field)
    content_type: str = getattr(message, fields.type_field)
    headers = [
        (b"content-disposition", disposition(getattr(message, fields.name_field)).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    return status, content, content_type.encode(), headers


def disposition(name: str) -> str:
    """Returns the Content-Disposition value of a file name: encoded in full, with an ASCII fallback for old clients."""
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\%' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
