"""Entry point of `codeq`: standard files, signals and exit codes of the process."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Final

GARBAGE_THRESHOLD: Final = 100_000
"""New objects between collections. Imports make objects that stay, and default collections take a sixth of their
time."""


def _open_standard_files() -> None:
    """Opens /dev/null in place of stdin, stdout or stderr if the caller has closed it.

    Otherwise the next file or socket would get the closed file's number and receive the command's output.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 - stays open


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    _open_standard_files()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C kills the process at any moment, without a traceback. Servers install their own handler, to drain.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(GARBAGE_THRESHOLD)
    # Imported only now, because imports take most of a command's time.
    from codeq_cli.commands import run

    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # Typer turns the former exception into the latter
        # The reader has closed the pipe. Without this, the interpreter would complain when it flushes on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
