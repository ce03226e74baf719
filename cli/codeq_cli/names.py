"""Checks names that become part of a URL path, so that no argument can reach another route."""

from __future__ import annotations

import re
from typing import Final

from codeq_cli.failures import usage_failure

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TENANT: Final = re.compile(r"_default|[a-z][a-z0-9-]{1,62}")
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
    if not _TENANT.fullmatch(text):
        raise usage_failure(f"{text!r} is not a tenant; use 2 to 63 of a-z 0-9 -, starting with a letter, or _default")
    return text


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
