"""A cluster node is ready if it answers calls or redirects them to the leader; otherwise it gives the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cluster_process import AUTHENTICATION, TOKEN, ClusterProcess, NodeProcess
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = pytest.mark.timeout(300)

WAIT_SECONDS = 60.0
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SHARD_SERVICES = ("", "codeq.v1.TaskService", "codeq.v1.WorkerService", "codeq.v1.ProducerService")
NODE_SERVICES = ("codeq.v1.ClusterService", "codeq.v1.ServerService")
ANSWERED = {202, 307}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterProcess]:
    made = ClusterProcess(tmp_path, env={"LOG_LEVEL": "info", "LOG_FORMAT": "json"})
    yield made
    made.close()


def get(node: NodeProcess, path: str) -> httpx.Response | None:
    """Returns an answer; None: the node is not listening."""
    try:
        return httpx.get(node.http_url + path, headers=HEADERS, timeout=WAIT_SECONDS)
    except httpx.TransportError:
        return None


def readiness(node: NodeProcess) -> tuple[int, dict[str, Any]]:
    """Returns the status and body of /readyz; 0: the node is not listening."""
    answer = get(node, "/readyz")
    return (0, {}) if answer is None else (answer.status_code, answer.json())


def create(node: NodeProcess) -> int:
    body = {"command": "a", "payload": 1}
    return httpx.post(f"{node.http_url}/v1/codeq/tasks", json=body, headers=HEADERS, timeout=WAIT_SECONDS).status_code


def health(node: NodeProcess, service: str) -> str:
    with grpc.insecure_channel(node.grpc_addr) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_SECONDS).status
    return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


@contextmanager
def gateway_of(nodes: list[NodeProcess], directory: Path) -> Iterator[str]:
    """Runs a standalone gateway for the nodes; yields its URL."""
    ready = directory / "gateway.json"
    command = [
        *(sys.executable, "-m", "codeq_cli.main", "gateway", "--http-host", "127.0.0.1", "--port", "0"),
        *("--ready-file", str(ready)),
        *("--server", ",".join(node.grpc_addr for node in nodes)),
    ]
    with (directory / "gateway.log").open("wb") as log:
        gateway = subprocess.Popen(command, env=os.environ | AUTHENTICATION, stdout=log, stderr=log)
    try:
        until(ready.exists)
        yield f"http://{json.loads(ready.read_text())['http']}"
    finally:
        gateway.kill()
        gateway.wait()


def until(condition: Callable[[], bool], told: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def events(node: NodeProcess, *names: str) -> list[tuple[str, str]]:
    """Returns the logged events with these names, each with the leader that it names."""
    lines = [json.loads(line) for line in node.log.splitlines() if line.startswith("{")]
    return [(line["event"], line["leader"]) for line in lines if line["event"] in names]


def test_founding_node_that_reports_ready_or_leader_answers_calls(cluster: ClusterProcess) -> None:
    nodes = list(cluster.nodes.values())
    for node in nodes:
        node.spawn()
    ready: set[str] = set()
    has_led = False

    def look() -> bool:
        nonlocal has_led
        for node in nodes:
            status, told = readiness(node)
            if status == 200:
                assert create(node) in ANSWERED
                ready.add(node.name)
            elif status:
                assert (status, told["ready"], bool(told["reason"])) == (503, False, True)
            answer = get(node, "/v1/codeq/raft/status")
            groups = [] if answer is None else answer.json().get("groups", [])
            if any(group["isLeader"] for group in groups):
                assert create(node) == 202
                has_led = True
        return len(ready) == len(nodes) and has_led

    until(look, lambda: cluster.logs)


def test_node_without_a_leader_is_alive_but_not_ready(cluster: ClusterProcess, tmp_path: Path) -> None:
    cluster.start()
    nodes = list(cluster.nodes.values())
    until(lambda: all(readiness(node)[0] == 200 for node in nodes), lambda: cluster.logs)
    (leader,) = [node for node in nodes if create(node) == 202]
    survivor, other = [node for node in nodes if node is not leader]
    until(lambda: {health(survivor, name) for name in (*SHARD_SERVICES, *NODE_SERVICES)} == {"SERVING"})
    with gateway_of(nodes, tmp_path) as gateway_url:
        until(lambda: httpx.get(f"{gateway_url}/readyz").status_code == 200)
        leader.kill()
        other.kill()
        until(lambda: readiness(survivor)[0] == 503, lambda: cluster.logs)
        status, told = readiness(survivor)
        assert (status, told["ready"], told["reason"]) == (503, False, "no leader is known; try again")
        assert create(survivor) == 503
        until(lambda: httpx.get(f"{gateway_url}/readyz").status_code == 503)
        assert httpx.get(f"{gateway_url}/readyz").json()["reason"]
        assert httpx.get(f"{gateway_url}/healthz").status_code == 200
        until(lambda: {health(survivor, name) for name in SHARD_SERVICES} == {"NOT_SERVING"})
        assert {health(survivor, name) for name in NODE_SERVICES} == {"SERVING"}
        answer = get(survivor, "/healthz")
        assert answer is not None
        assert answer.status_code == 200
        known = [("leader_found", leader.name), ("leader_lost", leader.name)]
        assert events(survivor, "leader_found", "leader_lost") == known
        other.spawn()
        until(lambda: readiness(survivor)[0] == 200, lambda: cluster.logs)
        assert create(survivor) in ANSWERED
        until(lambda: health(survivor, "") == "SERVING")
        until(lambda: httpx.get(f"{gateway_url}/readyz").status_code == 200)
        found, *_ = events(survivor, "leader_found", "leader_lost")[2:]
        assert found[0] == "leader_found"
