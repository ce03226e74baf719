"""The long form of the fault suite resumes where it stopped, and reports its results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def torture(state: Path, rounds: int) -> list[str]:
    """Runs the torture with one fault; returns the lines about it."""
    command = [sys.executable, "tests/torture.py", "kill-all", "--rounds", str(rounds), "--state", str(state)]
    done = subprocess.run([*command, "--no-save"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(300)
def test_torture_resumes_where_it_stopped_and_reports_its_result(tmp_path: Path) -> None:
    state = tmp_path / "state" / "torture.json"
    first, line = torture(state, 1)
    assert first.startswith("kill-all: rounds 1, seed 0, ")
    row = json.loads(line)
    assert (row["fault"], row["rounds"], row["seeds"], row["broken"]) == ("kill-all", 1, [0], [])
    assert (row["missing"], row["doubled"]) == (0, 0)
    assert row["acknowledged"] > 0
    second, line = torture(state, 2)
    assert second.startswith("kill-all: rounds 2, seed 1, ")
    again = json.loads(line)
    assert again["seeds"] == [0, 1]
    assert again["acknowledged"] > row["acknowledged"]
    assert torture(state, 2) == []
