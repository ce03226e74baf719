"""A collector in trouble costs spans: it delays no call, fills no log, and does not hold up the end of the server."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import grpc
import httpx
import pytest
from otlp_collector import Collector
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess

HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}
STOP_SECONDS_MAX = 10
"""Generous: the last spans have 1.5 s."""
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
"""Exports soon, and gives up soon, so that tests see many failures."""


def call(server: ServerProcess, count: int) -> None:
    with httpx.Client(base_url=f"{server.http_url}/v1/codeq", headers=HEADERS) as client:
        for _ in range(count):
            assert client.get("/tasks").status_code == 200


def traced(folder: Path, endpoint: str, **env: str) -> ServerProcess:
    return ServerProcess(
        folder, env={"TRACING_ENABLED": "true", "TRACING_OTLP_ENDPOINT": endpoint, **FAST, **env}, apart=False
    )


def test_outage_of_the_collector_is_logged_once_and_its_end_too(tmp_path: Path) -> None:
    with Collector() as collector:
        collector.code = grpc.StatusCode.INTERNAL
        with traced(tmp_path, collector.grpc_url) as server:
            for number in range(1, 6):
                call(server, 1)
                collector.wait(lambda: collector.exports >= number)  # noqa: B023 - called at once
            collector.code = grpc.StatusCode.OK
            call(server, 1)
            collector.wait(lambda: collector.spans)
            assert server.stop() == 0
            lines = server.log.splitlines()
    about = [line for line in lines if "spans_" in line or "opentelemetry" in line.lower()]
    assert ["spans_not_exported" in about[0], "spans_exported_again" in about[1]] == [True, True], about
    assert len(about) == 2


@pytest.mark.parametrize("answers", ["refused", "silent"])
def test_server_works_and_stops_while_the_collector_is_away(answers: str, tmp_path: Path) -> None:
    with socket.socket() as port:
        port.bind((LOOPBACK, 0))
        if answers == "silent":
            port.listen()
        with traced(tmp_path, f"http://{LOOPBACK}:{port.getsockname()[1]}", OTEL_EXPORTER_OTLP_TIMEOUT="60") as server:
            call(server, 3000)
            begun = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begun < STOP_SECONDS_MAX
            about = [line for line in server.log.splitlines() if "spans_" in line or "opentelemetry" in line.lower()]
    assert len(about) <= 1, about


def test_server_without_tracing_imports_nothing_of_opentelemetry(tmp_path: Path) -> None:
    package = tmp_path / "shadow" / "opentelemetry"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('opentelemetry was imported')\n")
    paths = [str(package.parent), *(path for path in sys.path if path)]
    with ServerProcess(tmp_path / "server", env={"PYTHONPATH": ":".join(paths)}) as server:
        trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
        with httpx.Client(base_url=f"{server.http_url}/v1/codeq", headers={**HEADERS, **trace}) as client:
            made = client.post("/tasks", json={"command": "order"}).json()
            claimed = client.post("/tasks/claim", json={"commands": ["order"]}).json()
            assert (claimed["id"], claimed["traceparent"]) == (made["id"], trace["traceparent"])
            answer = client.post(f"/tasks/{made['id']}/result", json={"status": "COMPLETED"})
            assert answer.status_code == 200
        assert server.stop() == 0


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_server_exports_nothing_if_opentelemetry_is_switched_off(tmp_path: Path, off: dict[str, str]) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with Collector() as collector:
        with traced(tmp_path, collector.grpc_url, **off) as server:
            with httpx.Client(base_url=f"{server.http_url}/v1/codeq", headers={**HEADERS, **trace}) as client:
                client.post("/tasks", json={"command": "order"})
                claimed = client.post("/tasks/claim", json={"commands": ["order"]}).json()
                assert claimed["traceparent"] == trace["traceparent"]
                answer = client.post(f"/tasks/{claimed['id']}/result", json={"status": "COMPLETED"})
                assert answer.status_code == 200
            assert server.stop() == 0
            [warning] = [line for line in server.log.splitlines() if "without effect" in line]
            assert next(iter(off)) in warning
        assert (collector.exports, collector.spans) == (0, [])
