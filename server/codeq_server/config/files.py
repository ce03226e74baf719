"""Looks up the files that settings name, all in the same way."""

from __future__ import annotations

import stat
from pathlib import Path


def file_problem(path: Path) -> str:
    """Returns why a path does not lead to a file that can be read; empty: it does.

    The file is not opened: a named pipe would block the thread until someone writes into it. The text has the absolute
    path, wherever the process was started.
    """
    path = path.absolute()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    return "" if stat.S_ISREG(mode) else f"{path} is not a regular file"
