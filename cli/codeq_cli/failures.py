"""Exit codes of the command, and the exception that carries a failure to the user."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of the command; listed in its help and in docs/cli.md."""

    OK = 0
    REFUSED = 1
    """The server rejected the request, or the requested object does not exist."""
    USAGE = 2
    """The command line, the input or the configuration is invalid; nothing was sent."""
    NOTHING_TO_CLAIM = 3
    """A claim found no task within its wait."""
    CONNECTION_FAILED = 4
    """The server could not be reached or sent no usable reply; the request may or may not have taken effect."""


class Failure(Exception):  # noqa: N818 - not always an error: a claim may find nothing
    """Ends the command with one line on stderr.

    Attributes:
        text: Human-readable description.
        reason: Machine-readable constant: a reason from the server's error table, or one of the command line's own.
        exit_code: Exit code of the process.
        body: JSON of the server's error body, printed as is with -o json; None: the server sent none.
    """

    def __init__(self, text: str, reason: str, exit_code: ExitCode, body: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason
        self.exit_code = exit_code
        self.body = body


def usage_failure(text: str) -> Failure:
    """Returns the failure for an invalid argument, option or input."""
    return Failure(text, "USAGE", ExitCode.USAGE)


def configuration_failure(text: str) -> Failure:
    """Returns the failure for an invalid setting in flags, environment or profile file."""
    return Failure(text, "CONFIGURATION", ExitCode.USAGE)


def connection_failure(text: str) -> Failure:
    """Returns the failure for a server that is unreachable or does not answer like a codeq server."""
    return Failure(text, "CONNECTION_FAILED", ExitCode.CONNECTION_FAILED)
