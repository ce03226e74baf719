"""codeq profile and codeq logs, with the debug port of a server."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from codeq_server.profiling.listener import DebugListener
from recording_server import Run


class Level:
    """The level of a log."""

    def __init__(self) -> None:
        self.level = "info"

    def set(self, level: str) -> None:
        self.level = level


@pytest.fixture
def level() -> Level:
    return Level()


@pytest.fixture
def address(level: Level) -> Iterator[str]:
    listener = DebugListener("127.0.0.1", 0, lambda: level.level, level.set)
    yield f"127.0.0.1:{listener.port}"
    listener.stop()


def test_profile_writes_a_file_for_pprof_or_speedscope(run: Run, address: str, tmp_path: Path) -> None:
    done = run("profile", "cpu", "--seconds", "1", "--addr", address)
    assert done.returncode == 0, done.stderr
    assert gzip.decompress((tmp_path / "codeq-cpu.pb.gz").read_bytes())
    assert done.stdout.startswith(b"codeq-cpu.pb.gz: ")
    file = tmp_path / "heap.json"
    done = run(
        "profile", "heap", "--seconds", "1", "--format", "speedscope", "--file", str(file), CODEQ_PPROF_ADDR=address
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_bytes())["exporter"] == "codeq"


def test_logs_level_shows_and_changes_the_level(run: Run, address: str, level: Level) -> None:
    assert run("logs", "level", "--addr", address).stdout == b"info\n"
    assert run("logs", "level", "debug", "--addr", address).stdout == b"debug\n"
    assert level.level == "debug"
    refused = run("logs", "level", "loud", "--addr", address)
    assert refused.returncode == 2
    assert refused.stderr == b"error: the level must be one of debug, info, warn, error (USAGE)\n"
    assert level.level == "debug"


def test_missing_debug_port_is_a_failed_connection(run: Run) -> None:
    done = run("profile", "cpu", "--seconds", "1", "--addr", "127.0.0.1:1")
    assert done.returncode == 4
    assert b"CODEQ_PPROF=1" in done.stderr


@pytest.mark.parametrize(
    "args", [("profile", "disk"), ("profile", "cpu", "--format", "svg"), ("profile", "cpu", "--seconds", "0")]
)
def test_invalid_use_is_refused(run: Run, args: tuple[str, ...]) -> None:
    assert run(*args).returncode == 2
