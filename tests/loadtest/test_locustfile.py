"""The load of loadtest runs against a server, and judges what came of it."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest
from server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
LOCUST = ROOT / ".tools" / "loadtest" / "bin" / "locust"
pytestmark = pytest.mark.timeout(120)


def load(
    server: ServerProcess, folder: Path, *users: str, **variables: str
) -> tuple[int, dict[str, dict[str, str]], str]:
    """Runs Locust for ten seconds, of which a busy machine needs most to begin.

    Returns:
        Its exit code, its figures by kind of request, and its output.
    """
    command = [LOCUST, "-f", ROOT / "loadtest" / "locustfile.py", "--host", server.http_url, "--headless"]
    command += ["-u", "6", "-r", "6", "-t", "10s", "--csv", folder / "load", *users]
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        command,
        env=plain | {"WAIT_SECONDS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    rows = csv.DictReader((folder / "load_stats.csv").read_text().splitlines())
    return done.returncode, {row["Name"]: row for row in rows}, done.stdout + done.stderr


def test_tasks_are_created_claimed_and_completed(server: ServerProcess, tmp_path: Path) -> None:
    code, figures, output = load(server, tmp_path, PRIORITIES="9,0", DELAYED="0.2", DELAY_SECONDS="1")
    assert code == 0, output
    for name in ("create", "claim", "complete"):
        assert int(figures[name]["Request Count"]) > 10
        assert figures[name]["Failure Count"] == "0"


def test_a_rejected_token_fails_the_run(server: ServerProcess, tmp_path: Path) -> None:
    code, figures, output = load(server, tmp_path, "Producer", CODEQ_PRODUCER_TOKEN="wrong")
    assert (code, "loadtest: create: " in output) == (1, True)
    assert figures["create"]["Failure Count"] == figures["create"]["Request Count"]


def test_slow_claims_fail_the_run(server: ServerProcess, tmp_path: Path) -> None:
    code, _, output = load(server, tmp_path, CLAIM_P99_MS="0.001")
    assert (code, "loadtest: claim: the 99th percentile is" in output) == (1, True)
