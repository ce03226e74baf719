"""Server and gateway in separate processes, either of which may be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess

WAIT_SECONDS = 30.0
HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, apart=True) as server:
        yield server
        print(server.log)


def call(server: ServerProcess, method: str, path: str, json: object = None) -> httpx.Response:
    return httpx.request(method, f"{server.http_url}{path}", json=json, headers=HEADERS, timeout=WAIT_SECONDS)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ready(server: ServerProcess) -> bool:
    return call(server, "GET", "/readyz").status_code == 200


def test_gateway_reports_a_lost_server_and_reconnects(apart: ServerProcess) -> None:
    created = call(apart, "POST", "/v1/codeq/tasks", {"command": "A", "payload": 1})
    assert created.status_code == 202
    os.kill(apart.pid, signal.SIGKILL)
    wait_for(lambda: not ready(apart))
    lost = call(apart, "POST", "/v1/codeq/tasks", {"command": "A", "payload": 2})
    assert (lost.status_code, lost.json()["reason"], lost.headers["retry-after"]) == (503, "SERVER_UNREACHABLE", "1")
    assert call(apart, "GET", "/healthz").status_code == 200
    assert "codeq_tasks_created_total" not in call(apart, "GET", "/metrics").text
    apart.start_server()
    wait_for(lambda: ready(apart))
    claimed = call(apart, "POST", "/v1/codeq/tasks/claim", {"waitSeconds": 5})
    assert claimed.json()["id"] == created.json()["id"]
    metrics = call(apart, "GET", "/metrics").text
    assert "codeq_tasks_claimed_total 1.0" in metrics
    assert "codeq_http_requests_total" in metrics
    assert "codeq_gateway_process_cpu_seconds_total" in metrics
    assert apart.stop() == 0


def test_keyed_create_survives_a_server_restart(apart: ServerProcess) -> None:
    """A create sent while no server is running is answered once one is; its key makes one task of all attempts."""
    os.kill(apart.pid, signal.SIGKILL)
    wait_for(lambda: not ready(apart))

    def create() -> httpx.Response:
        while True:
            answer = call(apart, "POST", "/v1/codeq/tasks", {"command": "A", "idempotencyKey": "k"})
            if answer.status_code != 503:
                return answer

    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(create)
        apart.start_server()
        assert answer.result(WAIT_SECONDS).status_code == 202
    again = call(apart, "POST", "/v1/codeq/tasks", {"command": "A", "idempotencyKey": "k"})
    assert (again.status_code, again.json()["id"]) == (200, answer.result().json()["id"])
    assert apart.stop() == 0


def test_claim_of_a_killed_gateway_takes_no_task(apart: ServerProcess) -> None:
    with ThreadPoolExecutor(1) as threads:
        claim = threads.submit(call, apart, "POST", "/v1/codeq/tasks/claim", {"waitSeconds": 30})
        wait_for(lambda: "codeq_workers_waiting 1.0" in call(apart, "GET", "/metrics").text)
        os.kill(apart.gateway_pid, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            claim.result(WAIT_SECONDS)
    apart.start_gateway()
    wait_for(lambda: "codeq_workers_waiting 0.0" in call(apart, "GET", "/metrics").text)
    call(apart, "POST", "/v1/codeq/tasks", {"command": "A"})
    claimed = call(apart, "POST", "/v1/codeq/tasks/claim", {"waitSeconds": 5})
    assert claimed.json()["attempts"] == 1
    assert apart.stop() == 0


def test_stopping_server_does_not_wait_for_its_gateways(apart: ServerProcess) -> None:
    begin = time.monotonic()
    assert apart.stop() == 0
    assert time.monotonic() - begin < 8, "the grace is 10 s"


def test_gateway_imports_neither_engine_nor_store() -> None:
    program = "import sys, codeq_server.node.gateway_app; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    for name in ("rocksdict", "codeq_server.engine", "codeq_server.storage", "codeq_server.services", "codeq_internal"):
        assert f"'{name}" not in loaded
