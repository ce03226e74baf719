"""Forks: clients created in a child work, inherited clients raise one error, and the parent is unaffected.

With CODEQ_FORK_CHILDREN=60 in the environment of the tests, each combination has that many children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import codeq
import forking
import pytest
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually_blocking

CHILDREN = int(os.environ.get("CODEQ_FORK_CHILDREN", "5"))
SECONDS_MAX = 50.0 + 2 * CHILDREN

FORKS = ("os.fork", "os.fork, exit", "fork")
SPAWNS = ("forkserver", "spawn", "preexec_fn")
STATES = ("none", "unused", "idle", "busy", "closed")
THENS = ("goes on", "closes", "exits")

pytestmark = pytest.mark.timeout(SECONDS_MAX * 3)


def run(directory: Path, server: ServerProcess, state: str, way: str, then: str) -> list[dict[str, object]]:
    """Runs a parent and its children, checks the parent, and returns the children's reports."""
    place = (str(directory), server.producer_addr, server.worker_addr, DEV_TOKEN)
    command = [sys.executable, forking.__file__, *place, state, way, then, str(CHILDREN)]
    with (directory / "stderr").open("w") as stderr:
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=directory)
    try:
        assert parent.stdout is not None
        if then == "exits":
            assert parent.wait(SECONDS_MAX) == 0
        else:
            assert parent.stdout.readline() == b"ready\n"
        (directory / "go").touch()
        results = [directory / f"child-{number}.json" for number in range(CHILDREN)]
        eventually_blocking(lambda: all(path.exists() for path in results), SECONDS_MAX)
        assert parent.wait(SECONDS_MAX) == 0
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()
        print((directory / "stderr").read_text())
    if then != "exits":
        told = json.loads((directory / "parent.json").read_text())
        assert told["failures"] == []
        assert told["lost"] == 0
        assert told["slowest"] < forking.TIMEOUT_SECONDS
    return [json.loads(path.read_text()) for path in results]


@pytest.mark.parametrize("then", THENS)
@pytest.mark.parametrize("way", [*FORKS, *SPAWNS])
@pytest.mark.parametrize("state", STATES)
def test_clients_created_in_a_child_do_not_affect_the_parent(
    state: str, way: str, then: str, shared_server: ServerProcess, tmp_path: Path
) -> None:
    for told in run(tmp_path, shared_server, state, way, then):
        assert told.get("error") is None
        assert told["done"] == ["1", "2", "3", "4"]
        assert isinstance(told["seconds"], float)
        assert told["seconds"] < 4 * forking.TIMEOUT_SECONDS


@pytest.mark.parametrize("then", THENS)
@pytest.mark.parametrize("way", FORKS)
def test_objects_inherited_across_a_fork_raise_one_error_at_once(
    way: str, then: str, shared_server: ServerProcess, tmp_path: Path
) -> None:
    for told in run(tmp_path, shared_server, "inherited", way, then):
        assert told.get("error") is None
        assert told["done"] == ["Forked"] * 6
        assert isinstance(told["seconds"], float)
        assert told["seconds"] < 1


HANDLERS = {
    "sync": """
def handle(task):
    return fork(task)
""",
    "async": """
async def handle(task):
    return fork(task)
""",
}

FORKING = """
import os, signal, sys, time
import codeq

worker = codeq.Worker({address!r}, token={token!r}, concurrency=1)

def fork(task):
    pid = os.fork()
    if pid == 0:
        try:
            task.progress(1)
        except codeq.Forked:
            return "from the child"
    os.waitpid(pid, 0)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"here")
        time.sleep(60)
    os.read(reading, 4)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == signal.SIGTERM
    worker.stop()
    return "from the parent"
{handler}
worker.run(handle, commands=[{command!r}])
print(worker.stats.settled, worker.stats.refused, flush=True)
"""


@pytest.mark.parametrize("kind", HANDLERS)
def test_handler_can_fork_and_its_child_exits_silently(kind: str, shared_server: ServerProcess) -> None:
    command = f"forking-{kind}"
    values = {"address": shared_server.worker_addr, "token": DEV_TOKEN, "command": command, "handler": HANDLERS[kind]}
    code = FORKING.format(**values)
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        task = client.create(command)
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=40)
        assert (done.stdout, done.stderr) == ("1 0\n", "")
        assert client.result(task.id, wait=10).result == "from the parent"
