"""Checks names that become part of a URL path or of a file, so that no argument can reach another route or a shell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from codeq_cli.failures import usage_failure

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TENANT: Final = re.compile(r"[a-z][a-z0-9-]{1,62}")
_COMMAND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def task_id(text: str) -> str:
    """Returns the text if it is a valid task id.

    Raises:
        Failure: The text is not a valid task id.
    """
    if not _ID.fullmatch(text):
        raise usage_failure(f"{text!r} is not a task id")
    return text


def command(text: str) -> str:
    """Returns the text if it is a valid command.

    Raises:
        Failure: The text is not a valid command.
    """
    if not _COMMAND.fullmatch(text):
        raise usage_failure(
            f"{text!r} is not a command; use 1 to 128 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
        )
    return text


def schedule(text: str) -> str:
    """Returns the text if it is a valid name of a schedule.

    Raises:
        Failure: The text is not a valid name of a schedule.
    """
    if not _COMMAND.fullmatch(text):
        raise usage_failure(
            f"{text!r} is not a name of a schedule; use 1 to 128 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
        )
    return text


def tenant(text: str) -> str:
    """Returns the text if it is a valid name of a tenant, or _default.

    Raises:
        Failure: The text is neither.
    """
    if text != "_default" and not _TENANT.fullmatch(text):
        raise usage_failure(f"{text!r} is not a tenant; use 2 to 63 of a-z 0-9 -, starting with a letter, or _default")
    return text


def tenant_of_tokens(text: str) -> str:
    """Returns the text if tokens can be made for a tenant of that name.

    Raises:
        Failure: The text is no name of a tenant.
    """
    if not _TENANT.fullmatch(text):
        raise usage_failure(f"--tenant: {text!r} is not a name of 2 to 63 of a-z 0-9 -, beginning with a letter")
    return text


def written_path(option: str, path: Path) -> Path:
    """Returns the path if it can be written into a file or a command: without control characters, and in UTF-8.

    Raises:
        Failure: It cannot; the message names the option.
    """
    if not str(path).isprintable():
        raise usage_failure(f"{option}: {str(path)!a} has control characters, or is not valid UTF-8")
    return path


def subscription(text: str) -> str:
    """Returns the text if it can be the id of a subscription.

    Raises:
        Failure: The text cannot be one.
    """
    if not _ID.fullmatch(text):
        raise usage_failure(f"{text!r} is not the id of a subscription")
    return text


def member(text: str) -> str:
    """Returns the text if it is a valid member name.

    Raises:
        Failure: The text is not a valid member name.
    """
    if not _ID.fullmatch(text):
        raise usage_failure(
            f"{text!r} is not a member name; use 1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
        )
    return text
