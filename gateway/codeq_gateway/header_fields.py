"""Body fields that may be sent as a header instead (option `http_header`), and headers that must not be repeated."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from codeq.options.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from codeq_gateway import refusals

FORWARD: Final = "X-CodeQ-Forward"
"""Header by which a client asks a follower to forward the call to the leader."""

_FORWARD: Final = FORWARD.lower().encode()

SINGLE: Final = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"idempotency-key",
        _FORWARD,
    }
)
"""Headers that a request may have at most once: of two values, a proxy and this server might pick different ones."""

_YES_OR_NO: Final = {b"1": True, b"0": False}


def forward(headers: Mapping[bytes, bytes]) -> bool:
    """Returns whether a follower should forward the call to the leader.

    Raises:
        CallFailed: The header is neither 1 nor 0.
    """
    sent = headers.get(_FORWARD)
    if sent is None:
        return False
    if sent not in _YES_OR_NO:
        raise refusals.invalid_field(FORWARD, "must be 1 or 0")
    return _YES_OR_NO[sent]


def header_of(field: FieldDescriptor) -> str:
    """Returns the header that may carry a field; empty: none."""
    name: str = field.GetOptions().Extensions[options_pb2.http_header]  # type: ignore[index]
    return name


def of_message(descriptor: Descriptor) -> dict[bytes, FieldDescriptor]:
    """Returns the fields of a message that may be sent as a header, by the header's name in lower case.

    Raises:
        TypeError: A field with a header is not a singular optional string.
    """
    found = {}
    for field in descriptor.fields:
        if name := header_of(field):
            if field.type != FieldDescriptor.TYPE_STRING or field.is_repeated or not field.has_presence:
                raise TypeError(f"{field.full_name}: only an optional string may come in a header")
            found[name.lower().encode()] = field
    return found


def refuse_others(
    known: Mapping[bytes, FieldDescriptor], taken: Collection[bytes], headers: Mapping[bytes, bytes]
) -> None:
    """Rejects headers that carry a field of other operations but not of this operation.

    Args:
        known: Header fields of all operations.
        taken: Headers that this operation accepts.
        headers: Headers of the request.

    Raises:
        CallFailed: The request has such a header.
    """
    if known.keys().isdisjoint(headers):
        return
    for name, field in known.items():
        if name in headers and name not in taken:
            raise refusals.invalid_field(header_of(field), "this operation does not accept this header")


def fill(message: Message, taken: Mapping[bytes, FieldDescriptor], headers: Mapping[bytes, bytes]) -> None:
    """Sets the fields of a message that were sent as headers.

    Raises:
        CallFailed: A header is not ASCII, or differs from its field in the body.
    """
    for name, field in taken.items():
        sent = headers.get(name)
        if sent is None:
            continue
        header = header_of(field)
        if not sent.isascii():
            raise refusals.invalid_field(header, "must be ASCII")
        value = sent.decode("ascii")
        if message.HasField(field.name) and getattr(message, field.name) != value:
            raise refusals.invalid_field(header, f"differs from {field.json_name} in the body")
        setattr(message, field.name, value)
