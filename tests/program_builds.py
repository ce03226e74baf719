"""Builds programs of tests, once for all processes of a test run."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

BUILD_SECONDS_MAX: Final = 300


class BuildError(Exception):
    """A program does not compile, or its compiler is missing."""


def build_once(product: Path, command: Sequence[str], where: Path) -> None:
    """Runs a build, unless another process of the run has done it.

    Args:
        product: What the build writes, or a file that marks it as done, in a folder that all processes share.
        command: Command that builds.
        where: Folder in which it runs.

    Raises:
        BuildError: It failed.
    """
    with product.with_name(f"{product.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if product.exists():
            return
        try:
            done = subprocess.run(command, cwd=where, capture_output=True, timeout=BUILD_SECONDS_MAX, check=False)
        except OSError as error:
            raise BuildError(f"{command[0]}: {error}") from None
        if done.returncode:
            raise BuildError(f"{' '.join(command)}: {(done.stderr or done.stdout).decode(errors='replace')}")
        product.touch()
