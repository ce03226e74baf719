"""An empty fourth node joins a cluster with many tasks under load; bench/join.py is the long form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "join.py"


@pytest.mark.timeout(200)
def test_empty_node_joins_a_full_cluster_while_every_create_is_acknowledged() -> None:
    command = [sys.executable, str(BENCH), "--tasks", "20000", "--rate", "100"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    assert line["failed"] == 0
    assert line["acknowledged"] > 0
