"""Entry point of `codeq`: how the process meets signals, and how each command ends."""

from __future__ import annotations

import os
import signal
import sys


def _open_standard_files() -> None:
    """Opens nothing in the place of stdin, stdout and stderr that the caller has closed.

    The next files and sockets would take their numbers, and what is printed would go there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 - it stays open


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    _open_standard_files()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends the process as a signal, at any moment and without a traceback. Servers take it over to drain.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # From here on, because imports take most of the time of a short command.
    from codeq_cli.commands import run

    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # Typer makes the latter of the former
        # The reader has read enough. Without this, the interpreter would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
