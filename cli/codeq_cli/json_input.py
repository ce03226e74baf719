"""Reads values of options, JSON or text: as given, from a file or from stdin."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

from codeq_cli import json_text
from codeq_cli.failures import usage_failure

INPUT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Largest value read from an option, a file or stdin, in bytes; the server enforces its own limits."""


def json_input(name: str, value: str) -> str:
    """Returns the JSON text of an option: the value itself, or the content of a file or stdin.

    Raises:
        Failure: The text cannot be read, is too large, or is not one JSON value in UTF-8.
    """
    text = text_input(name, value)
    hint = "" if value == "-" or value.startswith("@") else "; write @FILE for the content of a file"
    if not text.strip():
        raise usage_failure(f"{name}: is empty; it must be one JSON value, such as null, 42, '\"text\"' or '{{}}'")
    try:
        json_text.parse(text)
    except json.JSONDecodeError as error:
        what = f"{error.msg[:1].lower()}{error.msg[1:]}, at line {error.lineno}, column {error.colno}"
        raise usage_failure(f"{name}: not JSON: {what}{hint}") from None
    except ValueError as error:
        raise usage_failure(f"{name}: not JSON: {error}") from None
    return text


def text_input(name: str, value: str) -> str:
    """Returns the text of an option: the value itself, or the content of a file (`@FILE`) or of stdin (`-`).

    Raises:
        Failure: The text cannot be read, is too large, or is not UTF-8.
    """
    if value == "-":
        return _decoded(name, sys.stdin.buffer.read(INPUT_BYTES_MAX + 1))
    if not value.startswith("@"):
        return _decoded(name, os.fsencode(value))  # the original bytes, whatever the locale
    try:
        with Path(value[1:]).open("rb") as file:
            return _decoded(name, file.read(INPUT_BYTES_MAX + 1))
    except (OSError, ValueError) as error:
        raise usage_failure(f"{name}: {value[1:]}: {getattr(error, 'strerror', error)}") from None


def _decoded(name: str, content: bytes) -> str:
    if len(content) > INPUT_BYTES_MAX:
        raise usage_failure(f"{name}: larger than {INPUT_BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise usage_failure(f"{name}: not UTF-8, at byte {error.start}") from None
