"""Servers for tests in processes of their own: on free ports, with a store that goes with the server."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codeq.testing.running import RunningServer, ServerNotFoundError

START_SECONDS_MAX: Final = 60.0
"""Maximum time until a server is ready. It is generous, since many may start at once on a busy machine."""

STOP_SECONDS_MAX: Final = 15.0
"""Maximum time that a server has to stop before it is killed."""

COMMAND_VARIABLE: Final = "CODEQ_TEST_SERVER"
"""Variable with the command of the server, such as "/opt/codeq/bin/codeq"."""

_PASSED_ON: Final = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
"""Variables of this process that servers get; others may be settings of some other server."""

_POLL_SECONDS: Final = 0.02
_LOG_CHARACTERS: Final = 4000
_TOKEN: Final = "dev-token"  # noqa: S105 - the token of servers for development


@dataclass(frozen=True, slots=True)
class LocalServer(RunningServer):
    """A server in a process of its own.

    Attributes:
        log_path: Output of the server; gone once the server is.
        pid: Id of the server's process.
    """

    log_path: Path
    pid: int


@contextlib.contextmanager
def temporary_server(
    command: Sequence[str] | str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    in_memory: bool = False,
) -> Iterator[LocalServer]:
    """Runs a server for the length of a block, with a store in a temporary folder.

    Args:
        command: Command that starts `codeq`, with leading arguments if it is a sequence; None: CODEQ_TEST_SERVER, else
            the `codeq` beside the running Python or on the PATH, else the server package of the running Python.
        env: Settings of the server as variables, such as {"LOG_LEVEL": "debug"}. It gets no others of this process,
            except PATH and the like.
        flags: Further flags of `codeq serve`.
        in_memory: Whether the store is in memory, which is faster.

    Raises:
        ServerNotFoundError: There is no such command.
        RuntimeError: The server did not start; the message ends with its output.
    """
    program = _program(command)
    with tempfile.TemporaryDirectory(prefix="codeq-test-") as folder:
        directory = Path(folder)
        ready, log = directory / "ready.json", directory / "server.log"
        store = ["--no-fsync", "--store", str(directory / "store")]
        arguments = [
            *program,
            *("serve", "--dev", "--http-host", "127.0.0.1", "--port", "0", "--ready-file", str(ready)),
            *("--worker-stream-addr", "127.0.0.1:0", "--producer-stream-addr", "127.0.0.1:0"),
            *([] if in_memory else store),
            *flags,
        ]
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        memory = {"PERSISTENCE_PROVIDER": "memory"} if in_memory else {}
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - starts what the caller names
                arguments,
                env={**inherited, **memory, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield _started(process, ready, log)
        finally:
            _stop(process)


def _program(command: Sequence[str] | str | None) -> list[str]:
    if command is None:
        command = os.environ.get(COMMAND_VARIABLE) or None
    if command is not None:
        return [command] if isinstance(command, str) else list(command)
    beside = shutil.which("codeq", path=str(Path(sys.executable).parent))
    if (found := beside or shutil.which("codeq")) is not None:
        return [found]
    if importlib.util.find_spec("codeq_cli") is not None:
        return [sys.executable, "-m", "codeq_cli.main"]
    raise ServerNotFoundError(f"no command `codeq`: install codeq-server, or set {COMMAND_VARIABLE}")


def _started(process: subprocess.Popen[bytes], ready: Path, log: Path) -> LocalServer:
    """Waits until the server is ready."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while not ready.exists():
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server was not ready in time\n{_tail(log)}")
        time.sleep(_POLL_SECONDS)
    told = json.loads(ready.read_text())
    return LocalServer(
        producer_addr=told["producer"],
        worker_addr=told["worker"],
        http_url=f"http://{told['http']}",
        token=_TOKEN,
        log_path=log,
        pid=process.pid,
    )


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-_LOG_CHARACTERS:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
