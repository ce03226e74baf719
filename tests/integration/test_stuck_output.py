"""A server serves, stops and fails as usual even if nobody reads its stdout and stderr."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess
from stuck_output import KINDS, StuckOutput, stuck_output

HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}
CREATES = 20
FILE_BYTES_MAX = 1 << 20
SEEN_SECONDS_MAX = 20.0
"""Time within which a server must notice a condition by itself; usually it takes one or two seconds."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=KINDS)
def output(request: pytest.FixtureRequest) -> Iterator[StuckOutput]:
    with stuck_output(request.param) as made:
        yield made


def started(directory: Path, output: StuckOutput, **settings: object) -> ServerProcess:
    """Returns a server whose output is stuck; `with` starts it."""
    server = ServerProcess(directory, **settings)  # type: ignore[arg-type]
    server.output = output.fd
    return server


def create(server: ServerProcess, count: int = 1, *, payload: object = 1) -> list[int]:
    """Creates tasks; returns the statuses."""
    with httpx.Client(base_url=server.http_url, headers=HEADERS) as client:
        body = {"command": "a", "payload": payload}
        return [client.post("/v1/codeq/tasks", json=body).status_code for _ in range(count)]


@pytest.mark.parametrize("apart", [False, True], ids=["one process", "gateway apart"])
def test_server_with_stuck_output_serves_and_stops(tmp_path: Path, output: StuckOutput, apart: bool) -> None:
    with started(tmp_path, output, apart=apart) as server:
        assert set(create(server, CREATES)) == {202}
        assert server.stop() == 0


@pytest.mark.parametrize("apart", [False, True], ids=["one process", "gateway apart"])
def test_lost_lines_are_counted(tmp_path: Path, apart: bool) -> None:
    with stuck_output("disk full") as output, started(tmp_path, output, apart=apart) as server:
        create(server)
        names = ["codeq_log_lines_lost_total", *(["codeq_gateway_log_lines_lost_total"] if apart else [])]
        wait_until(lambda: all(re.search(rf"^{name} [1-9]", metrics(server), re.MULTILINE) for name in names))


def test_lost_lines_are_reported_once_output_can_be_written_again(tmp_path: Path) -> None:
    """A file size limit simulates a full disk; the store is not affected."""
    with ServerProcess(tmp_path, env={"PERSISTENCE_PROVIDER": "memory"}) as server:
        written = server.log_path.stat().st_size
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (written, resource.RLIM_INFINITY))
        create(server)
        wait_until(lambda: "codeq_log_lines_lost_total 0.0" not in metrics(server))
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        create(server)
        wait_until(lambda: "log_lines_lost" in server.log)
        [notice] = [json.loads(line) for line in server.log.splitlines() if "log_lines_lost" in line]
        assert (notice["level"], notice["count"] > 0) == ("warn", True)
        assert server.stop() == 0


def test_second_signal_ends_the_server_with_stuck_output_at_once(tmp_path: Path, output: StuckOutput) -> None:
    with started(tmp_path, output) as server, socket.create_connection((LOOPBACK, port_of(server))) as waiting:
        body = b'{"commands":["a"],"waitSeconds":30}'
        head = f"POST /v1/codeq/tasks/claim HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: Bearer {DEV_TOKEN}\r\n"
        waiting.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert server.wait() in {0, 128 + signal.SIGINT, 128 + signal.SIGTERM}  # the signals may arrive in any order


def test_server_accepts_tasks_again_after_the_disk_was_full(tmp_path: Path, output: StuckOutput) -> None:
    disk = os.statvfs(tmp_path)
    spare = 512 << 20  # other processes use the disk as well
    reserve = disk.f_bavail * disk.f_frsize - spare
    with started(tmp_path, output, env={"DISK_RESERVE_BYTES": str(reserve)}) as server:
        assert create(server) == [202]
        ballast = tmp_path / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * spare)
        wait_until(lambda: create(server) == [429])
        ballast.unlink()
        wait_until(lambda: create(server) == [202])
        assert server.stop() == 0


def test_failed_store_ends_the_server_with_stuck_output(tmp_path: Path, output: StuckOutput) -> None:
    with started(tmp_path, output) as server:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
        with suppress(httpx.TransportError):
            while create(server, payload="x" * 100_000):
                pass
        assert server.wait() == 1


def test_failed_startup_ends_the_server_with_stuck_output(tmp_path: Path, output: StuckOutput) -> None:
    server = started(tmp_path, output)
    with socket.create_server((LOOPBACK, port_of(server))):
        assert server.spawn().wait() == 1
    server.close()


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_server_without_stdout_or_stderr_serves_and_stops(tmp_path: Path, closing: str) -> None:
    with ServerProcess(tmp_path, prefix=("sh", "-c", f'exec "$@" {closing}', "sh")) as server:
        assert set(create(server, 10)) == {202}
        assert server.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_stderr_output_of_native_libraries_does_not_block(kind: str) -> None:
    """Libraries write to the file descriptor, past Python."""
    program = """
import os
from codeq_server.log.setup import configure_logging
configure_logging("info", "json")
for _ in range(10_000):
    try:
        os.write(2, b"x" * 100)
    except OSError:
        pass
"""
    with stuck_output(kind) as output:
        command = [sys.executable, "-c", program]
        subprocess.run(command, check=True, stdout=output.fd, stderr=output.fd, timeout=60)


def port_of(server: ServerProcess) -> int:
    return int(server.http_url.rpartition(":")[2])


def metrics(server: ServerProcess) -> str:
    return httpx.get(f"{server.http_url}/metrics").text


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEEN_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
