"""Runs the steps of `make test` one after another, all of them even when one fails, and tells the time of each.

A step is a target of the Makefile, except "test-python": that is one pytest run for each suite, a folder of `tests`.
`tests/host` is left out: it needs root and has a command of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal"]


def suites() -> list[Path]:
    """Returns the folders with Python tests that need no root, in the order of their names."""
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    return [Path("tests", name) for name in sorted(folders - {"host"})]


def steps(names: list[str]) -> list[tuple[str, list[str]]]:
    """Returns (title, command) of each step."""
    planned: list[tuple[str, list[str]]] = []
    for name in names:
        if name == "test-python":
            planned += [(suite.as_posix(), [*PYTEST, suite.as_posix()]) for suite in suites()]
        else:
            planned.append((name, ["make", name]))
    return planned


def main(names: list[str]) -> int:
    """Runs the steps; returns 1 when one failed."""
    outcomes = []
    for title, command in steps(names):
        print(f"\n=== {title}", flush=True)
        begin = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        outcomes.append((title, time.monotonic() - begin, status))
    print("\n    seconds  step")
    for title, seconds, status in outcomes:
        print(f"{'ok' if status == 0 else 'BAD':>3} {seconds:7.1f}  {title}")
    print(f"    {sum(seconds for _, seconds, _ in outcomes):7.1f}  in all")
    return int(any(status for _, _, status in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
