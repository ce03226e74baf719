"""The command as users run it, and a server for it to talk to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_server import RecordingServer, Run, recording_server


@pytest.fixture
def recorder() -> Iterator[RecordingServer]:
    with recording_server() as recorder:
        yield recorder


@pytest.fixture
def plain_environment(tmp_path: Path) -> dict[str, str]:
    """An environment without the settings of the user who runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "CODEQ_CONFIG_DIR": str(tmp_path / "profile")}


@pytest.fixture
def run(plain_environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs the command in the plain environment with more variables."""

    def run_command(*args: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "codeq_cli.main", *args],
            input=stdin,
            capture_output=True,
            timeout=30,
            check=False,
            cwd=tmp_path,
            env={**plain_environment, **environment},
        )

    return run_command


@pytest.fixture
def client(run: Run, recorder: RecordingServer) -> Run:
    """Runs the command against the recording server with the token "secret"."""

    def run_client(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return run(*args, stdin=stdin, CODEQ_ENDPOINT=recorder.endpoint, CODEQ_TOKEN="secret")

    return run_client
