"""Runs a three-node Raft cluster on this machine, to try out failures of nodes.

    cluster.py          starts all three nodes and stops them on Ctrl-C
    cluster.py node-a   restarts one node in the foreground

common.env and one file per node, next to this program, configure the nodes; they use the tokens of `codeq serve --dev`.
PORT_OFFSET=100 in the environment adds 100 to every port; it is remembered for restarts of single nodes. Each node
keeps store, log and pid in its own folder under data. A running node holds a lock on its pid file, so a stale file is
never mistaken for a running node.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import FrameType
from typing import IO, Final, NoReturn

from codeq_cli import env_files

HERE: Final = Path(__file__).resolve().parent
DATA: Final = HERE / "data"
OFFSET_FILE: Final = DATA / "port-offset"
NAMES: Final = ("node-a", "node-b", "node-c")
CODEQ: Final = Path(sys.executable).with_name("codeq")
TOKEN: Final = "dev-token"  # noqa: S105 - the token of development
START_SECONDS_MAX: Final = 60.0
LOCK_SECONDS_MAX: Final = 1.0
STOP_SECONDS_MAX: Final = 20.0
POLL_SECONDS: Final = 0.1
PORT_MAX: Final = 65535
_PORT: Final = re.compile(r"(?:^|(?<=:))\d{4,5}\b")

WHAT_TO_TRY: Final = """
Three nodes are running; {leader} leads. In another terminal:

  export CODEQ_TOKEN=dev-token CODEQ_ENDPOINT={endpoint}   # any node
  .venv/bin/codeq cluster status -o table
  .venv/bin/codeq task create HELLO --payload '{{"name":"world"}}'

Kill the leader, see which node takes over, and start the old leader again:

  kill -9 $(cat {pid_file})
  .venv/bin/codeq cluster status -o table
  .venv/bin/python {program} {leader}

Logs are in {logs}. Ctrl-C stops all three; their stores are kept.
"""


def env_of(name: str) -> dict[str, str]:
    """Returns the variables that configure a node, with PORT_OFFSET added to its ports."""
    variables = env_files.read(HERE / "common.env") | env_files.read(HERE / f"{name}.env")
    offset = port_offset()
    return {
        variable: _PORT.sub(lambda port: str(int(port[0]) + offset), value) for variable, value in variables.items()
    }


def port_offset() -> int:
    """Returns the offset of the ports.

    Raises:
        SystemExit: PORT_OFFSET is not a number, or takes a port out of range.
    """
    kept = OFFSET_FILE.read_text().strip() if OFFSET_FILE.exists() else "0"
    given = os.environ.get("PORT_OFFSET") or kept
    values = [value for file in HERE.glob("*.env") for value in env_files.read(file).values()]
    ports = [int(port) for value in values for port in _PORT.findall(value)]
    if not re.fullmatch(r"\d{1,5}", given) or max(ports) + int(given) > PORT_MAX:
        sys.exit(f"cluster: PORT_OFFSET: expected a number from 0 to {PORT_MAX - max(ports)}, got {given!r}")
    return int(given)


def keep_port_offset() -> None:
    """Stores the port offset of the cluster for nodes that are restarted by hand."""
    DATA.mkdir(exist_ok=True)
    OFFSET_FILE.write_text(f"{os.environ.get('PORT_OFFSET') or 0}\n")


def ports_in_use() -> list[int]:
    """Returns the nodes' ports on which something already listens."""
    variables = ("PORT", "WORKER_STREAM_ADDR", "PRODUCER_STREAM_ADDR", "RAFT_BIND_ADDR")
    ports = sorted(int(env_of(name)[variable].rpartition(":")[2]) for name in NAMES for variable in variables)
    return [port for port in ports if is_listened_on(port)]


def is_listened_on(port: int) -> bool:
    """Returns whether a port of this machine accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def pid_file(name: str) -> Path:
    """Returns the path of a node's pid file."""
    return DATA / name / "pid"


def locked(file: IO[str]) -> bool:
    """Tries to lock a pid file; returns whether it succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run(name: str) -> NoReturn:
    """Replaces this process with the node, which holds the lock on its pid file as long as it is running."""
    (DATA / name).mkdir(parents=True, exist_ok=True)
    file = pid_file(name).open("a+")
    deadline = time.monotonic() + LOCK_SECONDS_MAX  # another process may hold the lock briefly to check the node
    while not locked(file):
        if time.monotonic() > deadline:
            sys.exit(f"cluster: {name} is already running")
        time.sleep(POLL_SECONDS)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - its only parameter
    os.chdir(HERE)  # paths in the files are relative
    os.execve(CODEQ, [str(CODEQ), "serve", "--dev"], os.environ | env_of(name))  # noqa: S606 - needs no shell


def start(name: str) -> subprocess.Popen[bytes]:
    """Starts a node in its own session, out of reach of Ctrl-C, so that it gets only one stop signal."""
    (DATA / name).mkdir(parents=True, exist_ok=True)
    with (DATA / name / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, __file__, name], stdout=log, stderr=log, start_new_session=True)


def running(name: str) -> int:
    """Returns the process id of a running node, including one restarted by hand; 0: it is not running."""
    try:
        with pid_file(name).open("r+") as file:
            return 0 if locked(file) else int(file.read().strip() or 0)
    except FileNotFoundError:
        return 0


def stop(nodes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Stops every running node, including those restarted by hand, and waits until all have ended."""
    started = {process.pid for process in nodes.values() if process.poll() is None}
    for pid in started | set(filter(None, map(running, NAMES))):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while any(map(running, NAMES)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def leader() -> str:
    """Returns the name of the leader once every node has a vote; empty before that."""
    for name in NAMES:
        url = f"http://127.0.0.1:{env_of(name)['PORT']}/v1/codeq/raft/status"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=2) as reply:  # noqa: S310 - http
                groups = json.load(reply)["groups"]
        except (OSError, ValueError):
            continue
        if groups and groups[0]["isLeader"] and sum(member["voter"] for member in groups[0]["members"]) == len(NAMES):
            return name
    return ""


def wait_for_leader(nodes: dict[str, subprocess.Popen[bytes]]) -> str:
    """Waits for a leader and returns its name.

    Raises:
        SystemExit: A node ended, or no leader was elected in time.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while not (name := leader()):
        for node, process in nodes.items():
            if process.poll() is not None:
                sys.exit(f"cluster: {node} ended:\n{(DATA / node / 'log').read_text(errors='replace')[-2000:]}")
        if time.monotonic() > deadline:
            sys.exit(f"cluster: no leader within {START_SECONDS_MAX:g} s; the logs are in {DATA}")
        time.sleep(POLL_SECONDS)
    return name


def tell(leading: str) -> None:
    """Prints commands to try."""
    other = next(name for name in NAMES if name != leading)
    paths = {
        key: os.path.relpath(path)
        for key, path in {"pid_file": pid_file(leading), "program": Path(__file__), "logs": DATA / "*" / "log"}.items()
    }
    endpoint = f"http://localhost:{env_of(other)['PORT']}"
    print(WHAT_TO_TRY.format(leader=leading, endpoint=endpoint, **paths), flush=True)


def end(_number: int, _frame: FrameType | None) -> None:
    """Interrupts this program."""
    raise KeyboardInterrupt


def refuse_neighbours() -> None:
    """Checks that the nodes can start.

    Raises:
        SystemExit: A node is already running, or one of the ports is taken.
    """
    if any(map(running, NAMES)):
        sys.exit("cluster: a node is already running")
    if taken := ports_in_use():
        ports = ", ".join(map(str, taken))
        sys.exit(
            f"cluster: something else listens on {ports}: stop it (a server of `make run`?), or shift all ports of the "
            "nodes with PORT_OFFSET=100 make cluster"
        )


def main(arguments: list[str]) -> int:
    """Starts one node or the whole cluster; returns the exit code."""
    if arguments:
        if arguments[0] not in NAMES or len(arguments) > 1:
            sys.exit(f"usage: cluster.py [{'|'.join(NAMES)}]")
        run(arguments[0])
    keep_port_offset()
    refuse_neighbours()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell makes its background jobs ignore SIGINT
        signal.signal(number, end)
    nodes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in NAMES:
            nodes[name] = start(name)
        tell(wait_for_leader(nodes))
        while nodes:
            time.sleep(POLL_SECONDS)
            for name in [name for name, process in nodes.items() if process.poll() is not None]:
                print(f"{name} ended with code {nodes.pop(name).returncode}", flush=True)
        while any(map(running, NAMES)):  # some nodes were restarted by hand
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        stop(nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
