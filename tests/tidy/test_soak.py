"""The long search resumes where it stopped, reports its results, and starts over for another commit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def soak(state: Path, seeds: int) -> list[str]:
    """Runs only the search, with this many seeds; returns its report lines, one per part."""
    others = ["--clusters", "0", "--rounds", "0", "--forks", "0", "--isolation", "0", "--tokens", "0"]
    command = [sys.executable, "tests/soak.py", "--seeds", str(seeds), *others, "--state", str(state)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.timeout(300)
def test_soak_resumes_where_it_stopped_and_starts_over_for_another_commit(tmp_path: Path) -> None:
    state = tmp_path / "state" / "soak.json"
    assert [line.partition(":")[0] for line in soak(state, 1)] == ["sim 0 to 0 of 1"]
    assert [line.partition(":")[0] for line in soak(state, 2)] == ["sim 1 to 1 of 2"]
    assert soak(state, 2) == []
    state.write_text(json.dumps(json.loads(state.read_text()) | {"version": "another"}))
    assert [line.partition(":")[0] for line in soak(state, 1)] == ["sim 0 to 0 of 1"]
