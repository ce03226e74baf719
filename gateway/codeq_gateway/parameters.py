"""Values from the URL: path variables and query parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from codeq.options.v1 import options_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from codeq_gateway import fields, refusals
from codeq_gateway.dispatch import STALE
from codeq_gateway.fields import Assign, BadValueError

CONSISTENCY: Final = "consistency"
"""Query parameter of every read: whether the result may miss acknowledged changes."""

CONSISTENCIES: Final = (STALE,)
"""Values of `consistency`; without the parameter a read sees everything acknowledged."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A path variable or query parameter and the field it fills.

    Attributes:
        name: Name in the query, or of the path variable.
        field: The field.
        in_body: Whether the body can fill the field, too.
    """

    name: str
    field: FieldDescriptor
    _read: Callable[[str], Any]
    _assign: Assign
    in_body: bool = False

    def fill(self, message: Message, texts: list[str]) -> None:
        """Sets the field of a message to percent-decoded values.

        Raises:
            CallFailed: A value is malformed, a singular field has several, or the body has another; the error names the
                parameter.
        """
        in_body = getattr(message, self.field.name) if self.in_body else None
        if len(texts) > 1 and not self.field.is_repeated:
            raise refusals.invalid_field(self.name, "must not be given more than once")
        try:
            values = [self._read(text) for text in texts]
            self._assign(message, values if self.field.is_repeated else values[0])
        except msgspec.DecodeError:
            raise refusals.invalid_field(self.name, fields.wanted_item(self.field)) from None
        except BadValueError as bad:
            raise refusals.invalid_field(self.name, bad.description) from None
        if in_body and in_body != getattr(message, self.field.name):
            raise refusals.invalid_field(self.name, "differs between query and body")


def is_in_query(field: FieldDescriptor) -> bool:
    """Returns whether a field of the body may also be given as a query parameter (option `in_query`)."""
    return bool(field.GetOptions().Extensions[options_pb2.in_query])  # type: ignore[index]


def compile_parameter(field: FieldDescriptor, name: str, *, in_body: bool = False) -> Parameter:
    """Returns the parameter that fills a field.

    Args:
        field: The field.
        name: Name of the parameter.
        in_body: Whether the body can fill the field, too.

    Raises:
        TypeError: The field's type has no text form.
    """
    form = fields.scalar(field)
    assign = fields.assign_scalars(field, form) if field.is_repeated else fields.assign_scalar(field, form)
    if form.is_text:
        return Parameter(name, field, lambda text: msgspec.convert(text, form.type), assign, in_body)
    # Numbers and booleans have the same form in a URL as in JSON.
    return Parameter(name, field, msgspec.json.Decoder(form.type).decode, assign, in_body)


def read_query(query_string: bytes, known: Mapping[str, Parameter], message: Message) -> None:
    """Sets the fields of a message from a query string.

    Raises:
        CallFailed: A parameter is unknown or malformed; the error names it.
    """
    texts: dict[str, list[str]] = {}
    for pair in query_string.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            key = _unquote(name, "query")
            if key not in known:
                raise refusals.invalid_field(key, "unknown query parameter")
            texts.setdefault(key, []).append(_unquote(value, key))
    for key, values in texts.items():
        known[key].fill(message, values)


def take_consistency(query_string: bytes) -> tuple[str, bytes]:
    """Returns the consistency requested by a query, empty if none, and the rest of the query.

    Raises:
        CallFailed: The parameter is given more than once, or its value is unknown.
    """
    rest, found = [], []
    for pair in query_string.split(b"&"):
        name, _, value = pair.partition(b"=")
        if _unquote(name, "query") == CONSISTENCY:
            found.append(_unquote(value, CONSISTENCY))
        else:
            rest.append(pair)
    if len(found) > 1:
        raise refusals.invalid_field(CONSISTENCY, "must not be given more than once")
    if found and found[0] not in CONSISTENCIES:
        raise refusals.invalid_field(CONSISTENCY, f"must be {' or '.join(CONSISTENCIES)}")
    return "".join(found), b"&".join(rest)


def _unquote(text: bytes, key: str) -> str:
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise refusals.invalid_field(key, "must be valid UTF-8") from None
