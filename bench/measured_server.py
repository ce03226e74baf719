"""A fresh server in its own process, and its readings under load."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

ROOT: Final = Path(__file__).resolve().parent.parent
CODEQ: Final = ROOT / ".venv" / "bin" / "codeq"
TOKEN: Final = "dev-token"  # noqa: S105 - the token of the documented development set-up
AUTH: Final = (("authorization", f"Bearer {TOKEN}"),)
"""Metadata of a gRPC call with this token."""
LOOPBACK: Final = "127.0.0.1"
START_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 20.0
CALL_SECONDS_MAX: Final = 30.0
QUEUES_PER_TENANT_DEFAULT: Final = 10_000
POLL_SECONDS: Final = 0.02
ROWS_COUNTER: Final = "codeq_rows_written_total"

_PASSED_ON: Final = ("HOME", "LANG", "PATH", "PYTHONPATH")
_PRODUCER: Final = {
    "token": TOKEN,
    "subject": "producer-dev",
    "raw": {"role": "ADMIN", "tenantId": "dev-tenant"},
}
_WORKER: Final = {
    "token": TOKEN,
    "subject": "worker-dev",
    "scopes": [f"codeq:{name}" for name in ("claim", "heartbeat", "abandon", "nack", "result", "subscribe")],
    "eventTypes": ["*"],
    "raw": {"tenantId": "dev-tenant"},
}


def _of(tenant: str, token: Mapping[str, object]) -> dict[str, object]:
    """Returns a token as that of a tenant, with its name as secret."""
    return {**token, "token": tenant, "subject": tenant, "raw": {"role": "ADMIN", "tenantId": tenant}}


class BenchError(Exception):
    """The measurement failed, or its figures do not add up; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Resources that a server has used so far.

    Attributes:
        cpu_seconds: CPU time, user and system, of all its threads and child processes.
        rows: Row operations (puts and deletes) written; None if the server does not count them.
    """

    cpu_seconds: float
    rows: int | None


def certificate(directory: Path) -> dict[str, str]:
    """Makes a self-signed certificate; returns the variables of a server that uses it."""
    path, key = directory / "tls.crt", directory / "tls.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    name = ("-addext", f"subjectAltName=IP:{LOOPBACK}")
    subprocess.run([*command.split(), *name, "-keyout", key, "-out", path], check=True, capture_output=True)
    return {"TLS_CERT_FILE": str(path), "TLS_KEY_FILE": str(key)}


@contextmanager
def gateway_of(server: MeasuredServer, directory: Path) -> Iterator[str]:
    """Yields the HTTP address of a standalone gateway that reaches a server over a call stream.

    Raises:
        BenchError: The gateway was not ready in time.
    """
    ready, log_path = directory / "gateway.json", directory / "gateway.log"
    command = [
        *(str(CODEQ), "gateway", "--server", server.producer, "--http-host", "127.0.0.1", "--port", "0"),
        *("--ready-file", str(ready), "--log-level", "warn"),
    ]
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    with log_path.open("wb") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"the gateway is not ready:\n{log_path.read_text()}")
                time.sleep(POLL_SECONDS)
            yield json.loads(ready.read_text())["http"]
        finally:
            process.kill()


class MeasuredServer:
    """A server with an empty store, on free ports of the loopback interface; fsync on by default."""

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool = True,
        retention_seconds: int | None = None,
        tenants: Sequence[str] = (),
        queues_max: int = 0,
        shards: int = 1,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares the server; `with` starts and stops it.

        Args:
            directory: Folder of store, log and ready file.
            fsync: Whether every acknowledgement waits for fsync.
            retention_seconds: How long ended tasks are kept; None: the server's default.
            queues_max: Queues that the tenant needs; 0: the default limit.
            shards: Number of shards.
            tenants: Tenants; the token of each is its name, with full rights. None: one tenant, with TOKEN.
            more: Additional environment variables; they may override the addresses.
        """
        self.store: Final = directory / "store"
        self._log = directory / "server.log"
        self._ready = directory / "ready.json"
        self._env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
            "PERSISTENCE_PROVIDER": "rocksdb",
            "PERSISTENCE_CONFIG": json.dumps({"path": str(self.store), "fsyncOnCommit": fsync, "numShards": shards}),
            "PRODUCER_AUTH_PROVIDER": "static",
            "PRODUCER_AUTH_CONFIG": json.dumps([_of(name, _PRODUCER) for name in tenants] or _PRODUCER),
            "WORKER_AUTH_PROVIDER": "static",
            "WORKER_AUTH_CONFIG": json.dumps([_of(name, _WORKER) for name in tenants] or _WORKER),
            "LOG_LEVEL": "warn",
            "HTTP_HOST": LOOPBACK,
            "PORT": "0",
            "WORKER_STREAM_ADDR": f"{LOOPBACK}:0",
            "PRODUCER_STREAM_ADDR": f"{LOOPBACK}:0",
        }
        if retention_seconds is not None:
            self._env["RETENTION_SECONDS"] = str(retention_seconds)
        if queues_max > QUEUES_PER_TENANT_DEFAULT:
            self._env["QUEUES_PER_TENANT_MAX"] = str(queues_max)
        self._env |= more or {}
        self.is_scraped = True
        """Whether its metrics are read; from their first reading on, the server counts the times of tasks for them."""
        self._process: subprocess.Popen[bytes] | None = None
        self.http = self.worker = self.producer = ""

    def __enter__(self) -> Self:
        command = [str(CODEQ), "serve", "--ready-file", str(self._ready)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        try:
            self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """Kills the server, as a crash would; its store remains."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._ready.unlink(missing_ok=True)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._ready.exists():
            if self._process.poll() is not None:
                raise BenchError(f"the server ended with code {self._process.returncode}:\n{self.log}")
            if time.monotonic() > deadline:
                raise BenchError(f"the server was not ready within {START_SECONDS_MAX:g} s:\n{self.log}")
            time.sleep(POLL_SECONDS)
        ready = json.loads(self._ready.read_text())
        self.http, self.worker, self.producer = (
            str(ready[name]).removeprefix("http://") for name in ("http", "worker", "producer")
        )

    @property
    def log(self) -> str:
        """The end of the server's log."""
        return self._log.read_text(errors="replace")[-4000:]

    def log_lines(self) -> int:
        """Returns how many lines (warnings and errors) the server has logged."""
        return self._log.read_bytes().count(b"\n")

    def read(self) -> Reading:
        """Returns the resources that the server has used so far."""
        cpu = 0.0
        for process in self._processes():
            times = process.cpu_times()
            cpu += times.user + times.system
        return Reading(cpu, self.total(ROWS_COUNTER) if self.is_scraped else None)

    def main_thread(self) -> tuple[float, float]:
        """Returns the seconds that the server's main thread has run, and waited for a core that others had (Linux)."""
        assert self._process is not None
        ran, waited, _ = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        return int(ran) / 1e9, int(waited) / 1e9

    def rss_mb(self) -> float:
        """Returns the resident memory in megabytes, child processes included."""
        return sum(process.memory_info().rss for process in self._processes()) / 1e6

    def store_mb(self) -> float:
        """Returns the size of the store on disk in megabytes."""
        total = 0
        for path in self.store.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:  # removed by a compaction in the meantime
                continue
        return total / 1e6

    def fsync(self) -> bool:
        """Returns whether the server reports that its acknowledgements wait for fsync."""
        return bool(self.get_json("/v1/codeq/server")["fsync"])

    def counters(self) -> dict[str, float]:
        """Returns the counters and gauges of /metrics that have no labels."""
        lines = [line.split(" ") for line in self._get("/metrics").decode().splitlines() if line[:1] != "#"]
        return {words[0]: float(words[1]) for words in lines if len(words) == 2 and "{" not in words[0]}

    def queue_counts(self, command: str) -> dict[str, int]:
        """Returns the numbers of the command's tasks that are ready, scheduled, claimed and dead letters."""
        queue = self.get_json(f"/v1/codeq/admin/queues/{command}")
        return {name: int(str(queue[name])) for name in ("ready", "scheduled", "claimed", "dlq")}

    def ready_counts(self) -> Iterator[int]:
        """Yields the number of ready tasks of each queue."""
        token = ""
        while True:
            page = self.get_json(f"/v1/codeq/admin/queues?pageSize=500&pageToken={token}")
            queues = page["queues"]
            assert isinstance(queues, list)
            yield from (int(str(queue["ready"])) for queue in queues)
            token = str(page.get("nextPageToken", ""))
            if not token:
                return

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]

    def total(self, metric: str) -> int | None:
        """Returns the sum of a metric over all its labels; None: the server does not have it."""
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in self._get("/metrics").decode().splitlines()
            if line.startswith((f"{metric} ", f"{metric}{{"))
        ]
        return int(sum(values)) if values else None

    def get_json(self, path: str) -> dict[str, object]:
        """Returns the JSON object with which the server answers a GET."""
        content = json.loads(self._get(path))
        assert isinstance(content, dict)
        return content

    def _get(self, path: str) -> bytes:
        scheme = "https" if "TLS_CERT_FILE" in self._env else "http"
        request = urllib.request.Request(f"{scheme}://{self.http}{path}", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310 - http
        context = ssl.create_default_context(cafile=self._env.get("TLS_CERT_FILE")) if scheme == "https" else None
        with urllib.request.urlopen(request, timeout=CALL_SECONDS_MAX, context=context) as reply:  # noqa: S310 - http
            body = reply.read()
        assert isinstance(body, bytes)
        return body
