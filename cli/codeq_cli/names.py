"""Names that stand in paths: checked here, so that no argument can lead to another route."""

from __future__ import annotations

import re
from typing import Final

from codeq_cli.failures import usage_failure

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COMMAND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def task_id(text: str) -> str:
    """Returns the text where it can be the id of a task.

    Raises:
        Failure: It cannot.
    """
    if not _ID.fullmatch(text):
        raise usage_failure(f"{text!r} is not the id of a task")
    return text


def command(text: str) -> str:
    """Returns the text where it is a command.

    Raises:
        Failure: It is none.
    """
    if not _COMMAND.fullmatch(text):
        raise usage_failure(f"{text!r} is not a command: 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit")
    return text


def member(text: str) -> str:
    """Returns the text where it can be the name of a cluster's member.

    Raises:
        Failure: It cannot.
    """
    if not _ID.fullmatch(text):
        raise usage_failure(f"{text!r} is not the name of a member: 1 to 64 of A-Z a-z 0-9 . _ -")
    return text
