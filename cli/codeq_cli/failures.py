"""How a command ends: its exit codes and the one exception that carries a failure to the user."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of the command; listed in its help and in docs/cli.md."""

    OK = 0
    REFUSED = 1
    """The server refused, or what was asked for is not there."""
    USAGE = 2
    """The command line, the input or the configuration is wrong; nothing was sent."""
    NOTHING_TO_CLAIM = 3
    """A claim found no task within its wait."""
    CONNECTION_FAILED = 4
    """The server could not be reached, or no usable reply came; what became of the request is unknown."""


class Failure(Exception):  # noqa: N818 - it ends a command as a failure, be it an error or not
    """Ends the command with one line on stderr.

    Attributes:
        text: What failed, for people.
        reason: Constant for programs: a reason of the server's error table, or one of this command line.
        exit_code: Exit code of the process.
        body: JSON of the server's error body, shown as it came where JSON is asked for; None: the server sent none.
    """

    def __init__(self, text: str, reason: str, exit_code: ExitCode, body: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason
        self.exit_code = exit_code
        self.body = body


def usage_failure(text: str) -> Failure:
    """Returns the failure of a wrong argument, option or input."""
    return Failure(text, "USAGE", ExitCode.USAGE)


def configuration_failure(text: str) -> Failure:
    """Returns the failure of a wrong setting in flags, environment or profile file."""
    return Failure(text, "CONFIGURATION", ExitCode.USAGE)


def connection_failure(text: str) -> Failure:
    """Returns the failure of a server that cannot be reached or does not answer as one."""
    return Failure(text, "CONNECTION_FAILED", ExitCode.CONNECTION_FAILED)
