"""Findings of an examination."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    """The server starts, but the operator should know."""
    ERROR = "error"
    """The server does not start, or will fail soon."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: Kind of the check: "configuration", "tokens", "ports", …
        level: How much it matters.
        text: What was found, in one line and without secrets.
        remedy: What the operator should do; empty if all is well.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""


def fine(check: str, text: str) -> Finding:
    """Returns the finding that all is well."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Returns the finding of something that does not prevent the server from running."""
    return Finding(check, Level.WARNING, text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    """Returns the finding of something that must be mended."""
    return Finding(check, Level.ERROR, text, remedy)
