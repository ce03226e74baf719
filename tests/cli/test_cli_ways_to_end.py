"""How commands start and end: wrong usage, interrupts, readers that exit early."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from recording_server import RecordingServer, Run

TASK = '{"id":"t1"}'


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("task create A", "--payload is missing; see codeq task create --help"),
        ("task create A --payload 1 --priority 10", "--priority: 10 is not between 0 and 9; see"),
        ("task create A --payload 1 --priority high", "--priority: 'high' is not a whole number; see"),
        ("task create A --paylod 1", "no such option --paylod; did you mean --payload?; see"),
        ("task create A --payload", "--payload needs a value"),
        ("task claim --wait 1h", "--wait: 1h is not between 0 and 30s; see"),
        ("task claim --lease soon", "--lease: 'soon' is not a duration; write seconds, or a duration such as 90s"),
        ("-o tabel task get t1", "--output: 'tabel' is not one of 'table', 'json', 'yaml'; see"),
        ("tsk", "no such command 'tsk'; see codeq --help"),
    ],
)
def test_usage_errors_are_explained_in_plain_words(client: Run, args: str, told: str) -> None:
    assert client(*args.split()).stderr.decode().startswith(f"error: {told}")


@pytest.mark.parametrize(
    "args",
    [
        ("logs", "level", "de\udcffbug"),
        ("cluster", "leave", "x" * 300),
        ("store", "backup", "x" * 300, "there"),
        ("profile", "cpu", "--file", "d\udcff/none", "--addr", "127.0.0.1:1"),
        ("webhook", "secrets", "put", "d\udcff"),
        ("task", "get", "d\udcff"),
    ],
)
def test_no_argument_ends_in_a_traceback(client: Run, args: tuple[str, ...]) -> None:
    done = client(*args)
    assert done.returncode in {2, 4}
    assert (done.stderr[:7], done.stderr.count(b"\n")) == (b"error: ", 1)


@pytest.mark.parametrize(
    ("written", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1D", 86400), ("0", 0)]
)
def test_durations_are_accepted_in_common_notations(
    client: Run, recorder: RecordingServer, written: str, seconds: int
) -> None:
    recorder.reply(b"{}")
    assert client("task", "create", "A", "--payload", "1", "--delay", written).returncode == 0
    assert json.loads(recorder.request.body)["delaySeconds"] == seconds


@pytest.mark.usefixtures("_interruptible")
def test_interrupt_during_startup_prints_no_traceback(plain_environment: dict[str, str]) -> None:
    # The interrupt arrives during the imports, which take most of a command's time.
    program = (
        "import os, signal, sys, builtins\n"
        "real = builtins.__import__\n"
        "def importing(name, *args, **kwargs):\n"
        "    if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *args, **kwargs)\n"
        "builtins.__import__ = importing\n"
        "from codeq_cli.main import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=plain_environment, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_help_exits_with_0_when_its_reader_closes_the_pipe(plain_environment: dict[str, str]) -> None:
    command = f"set -o pipefail; {sys.executable} -m codeq_cli.main --help | head -2"
    done = subprocess.run(["bash", "-c", command], env=plain_environment, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("args", "unwanted"),
    [
        (["--version"], {"http.client", "yaml", "rich", "codeq_server.core.shard", "codeq_cli.task_commands"}),
        (["task", "get", "t1"], {"yaml", "rich", "codeq_server", "codeq_cli.cluster_commands"}),
    ],
)
def test_commands_import_only_what_they_use(
    plain_environment: dict[str, str], recorder: RecordingServer, args: list[str], unwanted: set[str]
) -> None:
    recorder.reply(b"{}")
    environment = {**plain_environment, "CODEQ_ENDPOINT": recorder.endpoint, "CODEQ_TOKEN": "t"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "codeq_cli.main", *args],
        env=environment,
        capture_output=True,
        timeout=30,
        check=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "codeq_cli.usage" in imported
    assert not imported & unwanted


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Lets child processes receive SIGINT even if the tests run in a shell's background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_interrupted_command_exits_silently_by_the_signal(plain_environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "codeq_cli.main", "--endpoint", endpoint, "task", "claim", "--wait", "30"]
        with subprocess.Popen(command, env=plain_environment, stdout=-1, stderr=-1) as process:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(4) == b"POST"
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == -signal.SIGINT  # 130 in a shell


@pytest.mark.parametrize("args", [("task", "get", "t1"), ("config", "get", "endpoint")])
def test_command_exits_quietly_when_its_reader_closes_the_pipe(
    plain_environment: dict[str, str], recorder: RecordingServer, args: tuple[str, ...]
) -> None:
    recorder.reply(TASK.encode())
    nobody, output = os.pipe()
    os.close(nobody)
    command = [sys.executable, "-m", "codeq_cli.main", "--endpoint", recorder.endpoint, *args]
    done = subprocess.run(command, env=plain_environment, stdout=output, stderr=-1, timeout=30, check=False)
    os.close(output)
    assert (done.returncode, done.stderr) == (0, b"")
