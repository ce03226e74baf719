"""JSON values on their way to the server: payloads and results as bytes, checked before they are sent."""

from __future__ import annotations

import json
from typing import Final, Self

from codeq.errors import FieldViolation, InvalidField, TooLarge
from codeq.texts import text_of

VALUE_BYTES_MAX: Final = 1024 * 1024
"""Most bytes of a payload or a result (codeq.v1.TaskSpec.payload, Outcome.result)."""


class RawJson(bytes):
    """JSON text that is sent byte for byte instead of being encoded."""

    __slots__ = ()

    def __new__(cls, text: str | bytes) -> Self:
        """JSON text.

        Args:
            text: One JSON value; a str is encoded as UTF-8. The server checks that it is JSON.
        """
        return super().__new__(cls, text.encode() if isinstance(text, str) else text)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_escaped = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_check = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse).decode  # numbers of any length


def encode(value: object, field: str) -> bytes:
    """The compact JSON of a value; bytes and RawJson as they are.

    Args:
        value: Anything that the standard json module can encode, or bytes.
        field: Name of the field for errors.

    Raises:
        InvalidField: The value cannot be written as JSON: NaN, and integers of over 4300 digits, included.
        TooLarge: More than VALUE_BYTES_MAX bytes.
    """
    if isinstance(value, bytes):
        data = value
    else:
        try:
            try:
                data = _encode(value).encode()
            except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only say as \uD83D
                data = _encode_escaped(value).encode()
        except Exception as error:  # noqa: BLE001 - code of the value's own types runs here
            text = f"not JSON: {text_of(error)}"
            raise InvalidField(f"{field} is {text}", violations=[FieldViolation(field, text)]) from None
    if len(data) > VALUE_BYTES_MAX:
        text = f"{field} has {len(data)} bytes, at most {VALUE_BYTES_MAX} are allowed"
        raise TooLarge(text, violations=[FieldViolation(field, text)])
    return data


def check_json(data: bytes, field: str) -> None:
    """Check what the server would refuse later, where nobody is told.

    Raises:
        InvalidField: It is not one JSON value in UTF-8.
    """
    try:
        _check(data.decode())
    except (ValueError, RecursionError) as error:
        text = f"not JSON: {text_of(error)}"
        raise InvalidField(f"{field} is {text}", violations=[FieldViolation(field, text)]) from None


def decode(data: bytes, name: str) -> object:
    """The value of JSON that the server keeps.

    Args:
        data: JSON.
        name: What it is, for errors.

    Raises:
        ValueError: Python does not read it: an integer of over 4300 digits, or nesting that is too deep.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} has {len(data)} bytes of JSON that Python does not read: {text_of(error)}") from error
