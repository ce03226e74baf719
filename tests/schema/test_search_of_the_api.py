"""Schemathesis searches for requests, single and in sequence, on which server and OpenAPI document disagree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import DEV_TOKEN, ServerProcess

HERE = Path(__file__).parent
SECONDS = 30
"""Time of each search; all searches take a minute."""
SECONDS_MAX = 300


@pytest.mark.timeout(SECONDS_MAX)
@pytest.mark.parametrize("phases", ["examples,coverage,fuzzing", "stateful"])
def test_server_conforms_to_the_openapi_document(tmp_path: Path, phases: str) -> None:
    with ServerProcess(tmp_path) as server:
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml", "run"]
        command += [f"{server.http_url}/openapi.json", "--phases", phases, "--max-time", str(SECONDS)]
        command += ["-H", f"Authorization: Bearer {DEV_TOKEN}"]
        env = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": os.fspath(HERE)}
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )
    assert done.returncode == 0, done.stdout + done.stderr
