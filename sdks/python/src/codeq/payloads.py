"""Encodes, checks and decodes the JSON of payloads and results."""

from __future__ import annotations

import json
from typing import Final, Self

from codeq.errors import FieldViolation, InvalidField, TooLarge
from codeq.texts import text_of
from codeq.typed_values import plain

VALUE_BYTES_MAX: Final = 1024 * 1024
"""Maximum bytes of a payload or a result (codeq.v1.TaskSpec.payload, Outcome.result)."""


class RawJson(bytes):
    """JSON text that is sent byte for byte, without encoding."""

    __slots__ = ()

    def __new__(cls, text: str | bytes) -> Self:
        """Wraps JSON text.

        Args:
            text: One JSON value; a str is encoded as UTF-8. The server checks that it is JSON.
        """
        return super().__new__(cls, text.encode() if isinstance(text, str) else text)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain).encode
_encode_escaped = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=plain).encode


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_check = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse).decode  # numbers of any length


def encode(value: object, field: str) -> bytes:
    """Returns the compact JSON of a value; bytes and RawJson as is.

    Args:
        value: Anything that the standard json module can encode, also with dataclasses, pydantic models and msgspec
            structs in it; or bytes.
        field: Name of the field, for errors.

    Raises:
        InvalidField: The value cannot be encoded as JSON, such as NaN or an integer of over 4300 digits.
        TooLarge: More than VALUE_BYTES_MAX bytes.
    """
    if isinstance(value, bytes):
        data = value
    else:
        try:
            try:
                data = _encode(value).encode()
            except UnicodeEncodeError:  # an unpaired surrogate, which JSON can only write as an escape such as \uD83D
                data = _encode_escaped(value).encode()
        except Exception as error:  # noqa: BLE001 - runs code of the value's own types
            text = f"not JSON: {text_of(error)}"
            raise InvalidField(f"{field} is {text}", violations=[FieldViolation(field, text)]) from None
    if len(data) > VALUE_BYTES_MAX:
        text = f"{field} has {len(data)} bytes; the limit is {VALUE_BYTES_MAX}"
        raise TooLarge(text, violations=[FieldViolation(field, text)])
    return data


def check_json(data: bytes, field: str) -> None:
    """Checks JSON that the server would reject later, where no caller could see the error.

    Raises:
        InvalidField: The data are not one JSON value in UTF-8.
    """
    try:
        _check(data.decode())
    except (ValueError, RecursionError) as error:
        text = f"not JSON: {text_of(error)}"
        raise InvalidField(f"{field} is {text}", violations=[FieldViolation(field, text)]) from None


def decode(data: bytes, name: str) -> object:
    """Decodes JSON from the server.

    Args:
        data: JSON.
        name: Name of the field, for errors.

    Raises:
        ValueError: Python cannot read the JSON: it has an integer of over 4300 digits, or nests too deeply.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} has {len(data)} bytes of JSON that Python cannot read: {text_of(error)}") from error
