"""Three nodes as clients see them: through a follower, and behind a standalone gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess, reserved_port

WAIT_SECONDS = 90.0
NAMES = ("n1", "n2", "n3")
HEADERS = {"Authorization": f"Bearer {DEV_TOKEN}"}
TASKS = "/v1/codeq/tasks"


@dataclass(frozen=True)
class Cluster:
    """Running nodes and the URL of a gateway for all of them."""

    nodes: dict[str, ServerProcess]
    gateway_url: str

    def leader(self) -> str:
        """Waits until a node leads, and returns its name."""
        found: list[str] = []

        def is_found() -> bool:
            for name, node in self.nodes.items():
                if node.is_running and send("POST", node.http_url + TASKS, json={"command": "PROBE"}) == 202:
                    found.append(name)
            return bool(found)

        eventually(is_found)
        return found[0]


def send(method: str, url: str, **options: object) -> int:
    """Returns the status of the answer; 0: no answer."""
    try:
        return httpx.request(method, url, headers=HEADERS, timeout=WAIT_SECONDS, **options).status_code  # type: ignore[arg-type]
    except httpx.TransportError:
        return 0


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        ports = {name: stack.enter_context(reserved_port()).getsockname()[1] for name in NAMES}
        peers = ",".join(f"{name}={LOOPBACK}:{port}" for name, port in ports.items())
        shared = {"RAFT_ENABLED": "true", "RAFT_PEERS": peers, "RAFT_CLUSTER_SECRET": "0123456789abcdef"}
        nodes = {name: ServerProcess(tmp_path / name, apart=False) for name in NAMES}
        shared["RAFT_PEER_HTTP_ADDRS"] = ",".join(f"{name}={node.http_url}" for name, node in nodes.items())
        shared["RAFT_PEER_GRPC_ADDRS"] = ",".join(f"{name}={node.producer_addr}" for name, node in nodes.items())
        for name, node in nodes.items():
            own = {"RAFT_SELF_ID": name, "RAFT_BIND_ADDR": f"{LOOPBACK}:{ports[name]}"}
            node.env.update(shared | own | {"RAFT_BOOTSTRAP": str(name == NAMES[0]).lower()})
        for node in nodes.values():
            stack.callback(node.close)
            node.spawn()
        ready = tmp_path / "gateway.json"
        command = [
            *(sys.executable, "-m", "codeq_cli.main", "gateway", "--dev", "--port", "0", "--ready-file", str(ready)),
            *("--server", ",".join(node.producer_addr for node in nodes.values())),
        ]
        with (tmp_path / "gateway.log").open("wb") as log:
            gateway = subprocess.Popen(command, env=dict(os.environ), stdout=log, stderr=log)
        stack.callback(gateway.wait)
        stack.callback(gateway.kill)
        eventually(ready.exists)
        yield Cluster(nodes, f"http://{json.loads(ready.read_text())['http']}")


@pytest.mark.timeout(300)
def test_clients_find_the_leader_and_the_gateway_follows_it(cluster: Cluster) -> None:
    leader = cluster.leader()
    follower = next(name for name in NAMES if name != leader)
    url = cluster.nodes[follower].http_url + TASKS
    leader_url = cluster.nodes[leader].http_url + TASKS
    eventually(lambda: send("POST", url, json={"command": "A"}) == 307)

    sent_on = httpx.post(url, json={"command": "A"}, headers=HEADERS)
    assert (sent_on.status_code, sent_on.headers["location"]) == (307, leader_url)
    assert sent_on.json()["leader"]["name"] == leader
    forwarded = httpx.post(
        url, json={"command": "A"}, headers={**HEADERS, "X-CodeQ-Forward": "1"}, timeout=WAIT_SECONDS
    )
    assert forwarded.status_code == 202
    task = f"{url}/{forwarded.json()['id']}"
    assert httpx.get(task, headers=HEADERS, timeout=WAIT_SECONDS).status_code == 307
    eventually(lambda: send("GET", f"{task}?consistency=stale") == 200)

    assert send("POST", cluster.gateway_url + TASKS, json={"command": "A"}) == 202
    cluster.nodes[leader].kill()
    answers = []

    def created() -> bool:
        keyed = {"command": "A", "idempotencyKey": "over-the-change"}
        answers.append(httpx.post(cluster.gateway_url + TASKS, json=keyed, headers=HEADERS, timeout=WAIT_SECONDS))
        return answers[-1].status_code in {200, 202}

    eventually(created)
    assert {answer.status_code for answer in answers[:-1]} <= {503}
    assert send("GET", f"{cluster.gateway_url}/readyz") == 200
    assert send("GET", f"{cluster.gateway_url}{TASKS}/{forwarded.json()['id']}") == 200
