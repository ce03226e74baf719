"""A real server in a process of its own, for tests that start, kill and restart it.

With SERVED_APART=1 in the environment of the tests, every server is two processes: `codeq server`, and `codeq gateway`
for REST. Both are started, killed and stopped together; a test that targets the server alone uses its pid. With
SERVED_SHARDS=4, every server has four shards; with SERVED_NODES=3, it is one of three nodes of a static cluster, which
are started and killed with it; with SERVED_RAFT_GROUPS=3, it is one of three nodes, each with three shards, which Raft
groups replicate.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

START_SECONDS_MAX = 45.0
"""A server that is not ready by then has failed. The time is generous, because many may start at once on a busy
machine."""

STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.02
LOG_TAIL_CHARS = 6000
LOOPBACK = "127.0.0.1"
DEV_TOKEN = "dev-token"

APART = os.environ.get("SERVED_APART") == "1"
"""Whether servers and their gateways run in two processes."""

SHARDS = int(os.environ.get("SERVED_SHARDS", "1"))
"""Number of shards of each server that names none."""

NODES = int(os.environ.get("SERVED_NODES", "1"))
"""Number of nodes of the static cluster to which each server belongs that names no mode."""
RAFT_GROUPS = int(os.environ.get("SERVED_RAFT_GROUPS", "1"))
"""Number of shards of the three nodes to which each server belongs that names no mode."""
_MODES = {"PERSISTENCE_CONFIG", "PERSISTENCE_PROVIDER", "RAFT_ENABLED", "CLUSTER_ENABLED"}

_GATEWAY_FLAGS = frozenset({"--port", "--http-host"})
_NO_AUTHORITIES = {"SSL_CERT_FILE": os.devnull}
"""Loading the public authorities takes a tenth of a server's start, and no server of tests meets one of them."""
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")


class ServerProcess:
    """One server on ports of its own, which it keeps over restarts.

    Attributes:
        store: Directory of the store.
        ready_path: File that the server writes when it is ready.
        env: Variables of the server's processes; changes take effect at the next start.
        log_path: Output of the server to stdout and stderr, over all its starts.
        output: File descriptor that its processes have as stdout and stderr instead; None: the log.
    """

    def __init__(
        self,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        dev: bool = True,
        store: Path | None = None,
        apart: bool = APART,
        host: str = LOOPBACK,
        prefix: Sequence[str] = (),
    ) -> None:
        """Prepares a server; `start` or `with` starts it.

        Args:
            directory: Where the server's files are kept.
            env: Variables in addition to a plain environment.
            flags: Flags of `codeq serve` other than those for ports, store and ready file.
            dev: Whether to start it with --dev: the token of producer and worker is then DEV_TOKEN.
            store: Directory of the store; None: "store" in the directory.
            apart: Whether the gateway runs in a process of its own.
            host: Address that the server listens on.
            prefix: Command and arguments that start the server's command.
        """
        self._host, self._prefix = host, prefix
        directory.mkdir(parents=True, exist_ok=True)
        self.store = store or directory / "store"
        self.log_path = directory / "server.log"
        self.output: int | None = None
        self.ready_path = directory / "ready.json"
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self.env = {**passed_on, **_NO_AUTHORITIES, **(env or {})}
        if SHARDS > 1 and not _MODES & self.env.keys():
            self.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": SHARDS})
        self._flags = [*(["--dev"] if dev else []), *flags]
        # Bound but never listening, so that no other process gets these ports, even while the server is down.
        self._ports = [reserved_port() for _ in range(3)]
        self._process: subprocess.Popen[bytes] | None = None
        self._apart = apart
        self._gateway: subprocess.Popen[bytes] | None = None
        self._gateway_ready_path = directory / "gateway-ready.json"
        self._mates: list[ServerProcess] = []
        """The other nodes of its cluster."""
        self._place: dict[str, str] = {}
        """Variables that tell another node of its cluster from this one."""
        if NODES * RAFT_GROUPS > 1 and not _MODES & self.env.keys():
            self._found(directory, {"flags": flags, "dev": dev, "apart": apart, "host": host, "prefix": prefix})

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def http_url(self) -> str:
        """URL of the gateway, without a trailing slash."""
        scheme = "https" if {"TLS_CERT_FILE", "HTTP_TLS_CERT_FILE"} & self.env.keys() else "http"
        return f"{scheme}://{self._host}:{self._port(0)}"

    @property
    def worker_addr(self) -> str:
        """Address for workers' gRPC."""
        return f"{self._host}:{self._port(1)}"

    @property
    def producer_addr(self) -> str:
        """Address for producers' gRPC."""
        return f"{self._host}:{self._port(2)}"

    @property
    def pid(self) -> int:
        """Id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> dict[str, object]:
        """Content of the ready file."""
        content = json.loads(self.ready_path.read_text())
        assert isinstance(content, dict)
        if self._apart:
            content["http"] = json.loads(self._gateway_ready_path.read_text())["http"]
        return content

    @property
    def is_apart(self) -> bool:
        """Whether the gateway has a process of its own."""
        return self._apart

    @property
    def gateway_pid(self) -> int:
        """Id of the gateway's process, if it has one."""
        assert self._gateway is not None
        return self._gateway.pid

    @property
    def log(self) -> str:
        """The server's output so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self) -> Self:
        """Starts the process and returns at once."""
        assert not self.is_running
        self._kill_gateway()
        for mate in self._mates:
            if not mate.is_running:
                mate.env = self.env | mate._place
                if "BACKUP_DIR" in self.env:
                    mate.env["BACKUP_DIR"] = f"{self.env['BACKUP_DIR']}-{self._mates.index(mate)}"
                mate.spawn()
        self._spawn_server()
        if self._apart:
            self._spawn_gateway()
        return self

    def start(self) -> Self:
        """Starts the server and returns once it is ready.

        Raises:
            RuntimeError: The server ended, or was not ready in time; the message ends with its log.
        """
        self.spawn()
        for mate in self._mates:
            mate.wait_until_ready()
        self.wait_until_ready()
        self._wait_for_mates()
        return self

    def _wait_for_mates(self) -> None:
        """Waits until this node reaches the others; not if its REST is hidden from this test."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while self._mates and time.monotonic() < deadline:
            try:
                told = httpx.get(f"{self.http_url}/readyz", verify=False)
                if "not served" not in told.text:
                    return
            except httpx.HTTPError:
                return
            time.sleep(POLL_SECONDS)

    def start_server(self) -> None:
        """Restarts an ended server process without touching its gateway."""
        self._spawn_server()
        self.wait_until_ready()

    def start_gateway(self) -> None:
        """Restarts an ended gateway process without touching the server."""
        self._kill_gateway()
        self._spawn_gateway()
        self.wait_until_ready()

    def _spawn_server(self) -> None:
        if self._process is not None:
            self._process.wait(STOP_SECONDS_MAX)
        self.ready_path.unlink(missing_ok=True)
        self._process = self._popen(self._command())

    def _spawn_gateway(self) -> None:
        self._gateway_ready_path.unlink(missing_ok=True)
        self._gateway = self._popen(self._gateway_command())

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            out = log if self.output is None else self.output
            return subprocess.Popen(command, env=self.env, stdout=out, stderr=out)

    def wait_until_ready(self) -> Self:
        """Waits until a spawned server is ready.

        Raises:
            RuntimeError: The server ended, or was not ready in time; the message ends with its log.
        """
        deadline = time.monotonic() + START_SECONDS_MAX
        while not (self.ready_path.exists() and (not self._apart or self._gateway_ready_path.exists())):
            if not self.is_running:
                raise RuntimeError(f"the server ended with code {self.wait()}\n{self.log[-LOG_TAIL_CHARS:]}")
            if self._gateway is not None and (code := self._gateway.poll()) is not None:
                self.kill()
                raise RuntimeError(f"the gateway ended with code {code}\n{self.log[-LOG_TAIL_CHARS:]}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server was not ready in time\n{self.log[-LOG_TAIL_CHARS:]}")
            time.sleep(POLL_SECONDS)
        return self

    def wait(self, seconds: float = STOP_SECONDS_MAX) -> int:
        """Waits for the end of the process and returns its exit code, negative when a signal ended it."""
        assert self._process is not None
        code = self._process.wait(seconds)
        if self._gateway is None:
            return code
        self._gateway.send_signal(signal.SIGTERM)
        gateway_code = self._gateway.wait(seconds)
        self._gateway = None
        return code or gateway_code

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        if self.is_running:
            self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._kill_gateway()
        for mate in self._mates:
            mate.kill()

    def stop(self) -> int:
        """Asks the server to stop and returns its exit code."""
        self.signal(signal.SIGTERM)
        code = self.wait()
        for mate in self._mates:
            mate.stop()
        return code

    def signal(self, number: int) -> None:
        """Sends a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def restart(self) -> Self:
        """Starts the server again on the same ports and store; kills it first if it is running."""
        self.kill()
        return self.start()

    def close(self) -> None:
        """Ends the process if it is running, and releases the ports."""
        self.kill()
        for port in self._ports:
            port.close()
        for mate in self._mates:
            mate.close()

    def _found(self, directory: Path, alike: Mapping[str, Any]) -> None:
        """Makes this server a node of a cluster, and prepares the others."""
        self._ports += (held := [reserved_port() for _ in range(NODES if NODES > 1 else 3)])
        places = {f"n{at}": f"{LOOPBACK}:{port.getsockname()[1]}" for at, port in enumerate(held)}
        if NODES > 1:
            self.env["CLUSTER_SECRET"] = "secret of the nodes"
            own = {name: cluster_variables(places, name) for name in places}
        else:
            own = {name: raft_variables(RAFT_GROUPS, places, name) for name in places}
        first, *others = own
        self.env |= own[first]
        for name in others:
            mate = ServerProcess(directory / name, env=self.env | own[name], **alike)
            mate._place = dict(own[name].items() - own[first].items())
            self._mates.append(mate)

    def _port(self, index: int) -> int:
        number = self._ports[index].getsockname()[1]
        assert isinstance(number, int)
        return number

    def _kill_gateway(self) -> None:
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()
            self._gateway = None

    def _command(self) -> list[str]:
        in_memory = self.env.get("PERSISTENCE_PROVIDER") == "memory"
        return [
            *self._prefix,
            *(sys.executable, "-m", "codeq_cli.main", "server" if self._apart else "serve"),
            *([] if self._apart else self._http_flags()),
            *("--worker-stream-addr", self.worker_addr, "--producer-stream-addr", self.producer_addr),
            *("--ready-file", str(self.ready_path)),
            *([] if in_memory else ["--store", str(self.store)]),
            *(self._given(of_gateway=False) if self._apart else self._flags),
        ]

    def _gateway_command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "codeq_cli.main", "gateway", "--server", self.producer_addr),
            *self._http_flags(),
            *("--ready-file", str(self._gateway_ready_path)),
            *(["--dev"] if "--dev" in self._flags else []),
            *self._given(of_gateway=True),
        ]

    def _http_flags(self) -> list[str]:
        return ["--http-host", self._host, "--port", str(self._port(0))]

    def _given(self, *, of_gateway: bool) -> list[str]:
        """Returns the flags that were given for the gateway, or those for the server."""
        found = []
        owner = False
        for flag in self._flags:
            if flag.startswith("--"):
                owner = flag in _GATEWAY_FLAGS
            if owner == of_gateway:
                found.append(flag)
        return found


def cluster_variables(places: Mapping[str, str], name: str) -> dict[str, str]:
    """Returns the variables of a node of a static cluster.

    Args:
        places: Address of each node for the calls of the others.
        name: Name of the node.
    """
    return {
        "CLUSTER_ENABLED": "true",
        "CLUSTER_NODES": ",".join(f"{each}={place}" for each, place in places.items()),
        "CLUSTER_SELF_ID": name,
        "CLUSTER_GRPC_ADDR": places[name],
    }


def raft_variables(shards: int, places: Mapping[str, str], name: str) -> dict[str, str]:
    """Returns the variables of a node with a Raft group per shard.

    Args:
        shards: Number of shards.
        places: Raft address of each node.
        name: Name of the node.
    """
    return {
        "PERSISTENCE_CONFIG": json.dumps({"numShards": shards}),
        "RAFT_ENABLED": "true",
        "RAFT_BOOTSTRAP": "true",
        "RAFT_PEERS": json.dumps(dict(places)),
        "RAFT_CLUSTER_SECRET": "secret of the nodes",
        "RAFT_SELF_ID": name,
        "RAFT_BIND_ADDR": places[name],
    }


def reserved_port() -> socket.socket:
    """Returns a bound socket that never listens, which reserves the port for a server."""
    port = socket.socket()
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port.bind((LOOPBACK, 0))
    return port
