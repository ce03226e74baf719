"""A procedure of docs/runbooks, whose commands a test runs as printed, in other folders and on other ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

DOCS = Path(__file__).resolve().parents[1] / "docs"
SECONDS_MAX = 120
WHOLE = slice(None)


def blocks(page: Path) -> list[str]:
    """Returns the shell commands of a page, block by block."""
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


class Runbook:
    """The commands of a page, to run block by block; its end checks that all were run.

    Attributes:
        left: Blocks that were not run yet.

    Args:
        page: Path of the page below docs, without its suffix.
        folder: Where the commands run.
        replaced: Addresses and folders of the page, with those to use instead.
        env: Further variables of the commands.
        part: Which blocks of the page to run.
    """

    def __init__(
        self, page: str, folder: Path, replaced: Mapping[str, str], env: Mapping[str, str], part: slice = WHOLE
    ) -> None:
        every = blocks(DOCS / f"{page}.md")
        self.left = every[part]
        assert self.left
        unused = [name for name in replaced if not any(name in block for block in every)]
        assert unused == []
        folder.mkdir(exist_ok=True)
        self._folder, self._replaced, self._last = folder, replaced, ""
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._env = dict(os.environ) | {"PATH": tools, "HOME": str(folder)} | dict(env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert self.left == []

    def run(self) -> str:
        """Runs the next block, whose commands must all succeed, and returns its stdout."""
        self._last = self.left.pop(0)
        return self.repeat()

    def repeat(self) -> str:
        """Runs the last block again and returns its stdout."""
        found = "|".join(re.escape(name) for name in sorted(self._replaced, key=len, reverse=True))
        script = re.sub(found, lambda match: self._replaced[match[0]], self._last) if found else self._last
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env=self._env,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == 0, f"{script}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout
