"""Random lives keep Raft's promises, and no valid message is rejected or ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = int(os.environ.get("CODEQ_RAFT_LIVES", "150"))


@pytest.mark.parametrize("part", range(2))
@pytest.mark.timeout(3600)
def test_random_lives_keep_every_promise(part: int) -> None:
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("random_lives.py")), str(part * COUNT), str(COUNT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.endswith("all lived\n"), f"{ended.stdout.splitlines()[-1]}\n{ended.stderr}"
    assert ended.returncode == 0
