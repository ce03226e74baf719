"""`codeq.testing`: servers for the tests of other programs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import codeq
import pytest
from codeq import testing
from entry_points import describe_server

SERVE = (sys.executable, "-m", "codeq_cli.main")


def test_temporary_server_serves_and_ends_with_its_block() -> None:
    with testing.temporary_server(SERVE, env={"SHUTDOWN_GRACE_SECONDS": "1"}) as server:
        worker = server.worker()
        worker.task("T")(lambda task: task.payload)
        thread = threading.Thread(target=worker.run)
        thread.start()
        with server.producer() as producer, server.client() as client:
            assert producer.create_and_wait("T", 5).result == 5
            assert client.server_info().persistence_provider != "memory"
        worker.stop()
        thread.join(20)
        pid, log = server.pid, server.log_path
        assert log.exists()
        assert server.env["CODEQ_TOKEN"] == server.token
    assert not log.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_process_with_a_store_in_memory_keeps_nothing_on_disk() -> None:
    with testing.temporary_server(SERVE, in_memory=True) as server, server.client() as client:
        assert client.server_info().persistence_provider == "memory"
        assert not (server.log_path.parent / "store").exists()


@pytest.mark.parametrize("command", [("false",), (*SERVE, "serve", "--unknown")])
def test_server_that_does_not_start_says_why(command: tuple[str, ...]) -> None:
    with pytest.raises(RuntimeError, match="ended with code"), testing.temporary_server(command):
        pass


def test_command_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEQ_TEST_SERVER", "no-such-command-anywhere")
    with pytest.raises(FileNotFoundError), testing.temporary_server():
        pass


PROGRAM = """
pytest_plugins = ["codeq.testing.plugin"]


def test_creates(codeq_producer, codeq_client, codeq_command):
    task_id = codeq_producer.create(codeq_command, 1)
    assert codeq_client.get(task_id).payload == 1


def test_commands_differ(codeq_server, codeq_command):
    with codeq_server.client() as client:
        assert codeq_command not in [queue.command for queue in client.iter_queues()]


def test_moves_its_clock(codeq_memory_server):
    with codeq_memory_server.client() as client:
        task = client.create("A", delay=3600)
        codeq_memory_server.clock.advance(seconds=3600)
        assert client.get(task.id).status == "PENDING"
"""


def test_plugin_gives_fixtures_to_those_who_opt_in(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PROGRAM.partition("\n\n")[0])
    (tmp_path / "test_program.py").write_text(PROGRAM.partition("\n\n")[2])
    path = [str(describe_server(tmp_path)), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


def test_sdk_does_not_import_pytest_or_testing_by_itself() -> None:
    unwanted = ("pytest", "codeq.testing", "pydantic", "msgspec")
    code = f"import sys, codeq; codeq.Producer; assert not set({unwanted}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert codeq.__version__
