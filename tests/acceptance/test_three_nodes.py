"""Three nodes from README and compose file: the README's lines as printed, and the nodes' settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from codeq_cli import env_files
from server_process import DEV_TOKEN, LOOPBACK
from test_readme import ROOT, block

LOCAL = ROOT / "deploy" / "local-cluster"
COMPOSE = ROOT / "deploy" / "docker-compose" / "raft-cluster"
NODES = ["node-a", "node-b", "node-c"]
PORTS = re.compile(r"\b(?:808[0-2]|9[0-2]9[12]|700[1-3])\b")
"""The ports of the nodes on one machine."""
SECONDS_MAX = 120


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def checked(env: dict[str, str], *flags: str) -> None:
    """Checks that `codeq config check` accepts an environment."""
    command = [sys.executable, "-m", "codeq_cli.main", "config", "check", *flags]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    done = subprocess.run(command, env=kept | env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def end_group(group: int) -> None:
    """Kills the remaining processes of a group."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class LocalCluster:
    """The nodes of `make cluster`, in their own folder and on their own ports."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Copies the scripts that run the nodes, with other ports."""
        self.folder = folder
        shutil.copytree(LOCAL, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
        self.ports: dict[str, str] = {}
        self._stack = stack
        for path in folder.glob("*.env"):
            text = path.read_text()
            for port in PORTS.findall(text):
                if port not in self.ports:
                    # Bound but never listening, so that no other process gets the port while a node is down.
                    held = stack.enter_context(socket.socket())
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    held.bind((LOOPBACK, 0))
                    self.ports[port] = str(held.getsockname()[1])
            path.write_text(self.moved(text))

    def moved(self, text: str) -> str:
        """Returns a text with its ports replaced by those of these nodes."""
        return PORTS.sub(lambda found: self.ports[found[0]], text)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Runs lines of the README; processes that they start end with the cluster."""
        command = ["bash", "-euc", script]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            self._stack.callback(end_group, process.pid)
            out, err = process.communicate(timeout=SECONDS_MAX)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def status(self, port: str) -> dict[str, object]:
        """Returns the group as reported by the node with this README port; empty: the node has no group yet."""
        url = f"http://{LOOPBACK}:{self.ports[port]}/v1/codeq/raft/status"
        try:
            groups = httpx.get(url, headers={"Authorization": f"Bearer {DEV_TOKEN}"}).json()["groups"]
        except httpx.TransportError:
            return {}
        return dict(groups[0]) if groups else {}

    def metrics(self, port: str) -> str:
        """Returns the metrics of the node with this README port."""
        return httpx.get(f"http://{LOOPBACK}:{self.ports[port]}/metrics").text

    def pid(self, name: str) -> int:
        """Returns the process id in a node's pid file."""
        return int((self.folder / "data" / name / "pid").read_text())


@pytest.fixture
def local_cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with ExitStack() as stack:
        cluster = LocalCluster(tmp_path / "local-cluster", stack)
        log = stack.enter_context((tmp_path / "output").open("wb+"))
        command = [sys.executable, str(cluster.folder / "cluster.py")]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
        try:
            eventually(
                lambda: process.poll() is not None or b"Three nodes are running" in (tmp_path / "output").read_bytes(),
                "the nodes did not start",
            )
            assert process.poll() is None, (tmp_path / "output").read_text()
            yield cluster
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS_MAX) == 0


def alive(pid: int) -> bool:
    """Returns whether a process is running; a process that has ended but was not waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(300)
def test_readme_cluster_loses_nothing_when_its_leader_is_killed(local_cluster: LocalCluster) -> None:
    script = local_cluster.moved(block("In another terminal:", "sh"))
    script = script.replace("$PWD/.venv/bin", str(Path(sys.executable).parent))
    script = script.replace("deploy/local-cluster", str(local_cluster.folder)).replace(
        "cluster.py $LEADER &", "cluster.py $LEADER >/dev/null 2>&1 &"
    )
    first = str(local_cluster.status("8081")["leaderId"])
    killed = local_cluster.pid(first)
    done = local_cluster.run(script)
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition('"image":"dog.png"')
    assert re.search(rf"node-[abc] +(?:FOLLOWER|LEADER) +{first} ", before)
    assert '"status":"COMPLETED"' in after
    assert '"result":{"width":640}' in after
    ports = {"node-a": "8080", "node-b": "8081", "node-c": "8082"}
    others_of_first = [port for name, port in ports.items() if name != first]
    eventually(lambda: local_cluster.status(others_of_first[0])["leaderId"] not in {"", first}, "nobody else leads")
    leader = str(local_cluster.status(others_of_first[0])["leaderId"])
    assert re.search(rf"node-[abc] +(?:FOLLOWER|LEADER) +{leader} ", after)

    port = ports[leader]

    def caught_up() -> bool:
        members = local_cluster.status(port).get("members", [])
        assert isinstance(members, list)
        return any(member["id"] == first and member["active"] and member["lag"] == 0 for member in members)

    eventually(caught_up, "the node that was killed did not catch up")
    assert local_cluster.pid(first) != killed
    mine = local_cluster.metrics(port)
    assert 'codeq_raft_role{role="leader"} 1.0' in mine
    assert f'codeq_raft_member_active{{member="{first}"}} 1.0' in mine
    assert re.search(rf'^codeq_raft_member_lag{{member="{first}"}} ', mine, re.MULTILINE)
    assert re.search(r"^codeq_raft_elections_total [2-9]", mine, re.MULTILINE)
    assert re.search(r"^codeq_raft_messages_sent_total [1-9]", mine, re.MULTILINE)
    others = local_cluster.metrics(ports[first])
    assert 'codeq_raft_role{role="follower"} 1.0' in others
    assert "codeq_raft_member_lag{" not in others


@pytest.mark.timeout(300)
def test_stopped_local_cluster_leaves_no_node_running(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = LocalCluster(tmp_path / "local-cluster", stack)
        command = [sys.executable, str(cluster.folder / "cluster.py")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            eventually(lambda: "Three nodes are running" in process.stdout.readline(), "the nodes did not start")
            pids = [cluster.pid(name) for name in NODES]
            os.kill(pids[2], signal.SIGKILL)
            again = subprocess.Popen([*command, "node-c"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            eventually(lambda: cluster.status("8082").get("hasLeader") is True, "the node did not come back")
            assert subprocess.run([*command, "node-b"], check=False, capture_output=True).returncode == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS_MAX) == 0
        assert again.wait(SECONDS_MAX) == 0
        assert not any(map(alive, pids))


def test_local_cluster_error_names_every_port_in_use_and_the_offset_option(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = LocalCluster(tmp_path / "local-cluster", stack)
        program = [sys.executable, str(cluster.folder / "cluster.py")]
        for port in ("8081", "9092"):
            listening = stack.enter_context(socket.socket())
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((LOOPBACK, int(cluster.ports[port])))
            listening.listen()
        done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=SECONDS_MAX)
        taken = ", ".join(sorted([cluster.ports["8081"], cluster.ports["9092"]], key=int))
        assert done.returncode == 1
        assert f"something else listens on {taken}: " in done.stderr
        assert "PORT_OFFSET=100 make cluster" in done.stderr
        far = subprocess.run(
            program, check=False, capture_output=True, text=True, env=os.environ | {"PORT_OFFSET": "65000"}
        )
        assert (far.returncode, "PORT_OFFSET: expected a number from 0 to " in far.stderr) == (1, True)


def test_port_offset_shifts_every_port_of_a_node(tmp_path: Path) -> None:
    shutil.copytree(LOCAL, tmp_path / "nodes", ignore=shutil.ignore_patterns("data", "__pycache__"))
    told = "import cluster, json; print(json.dumps(cluster.env_of('node-b')))"
    done = subprocess.run(
        [sys.executable, "-c", told],
        cwd=tmp_path / "nodes",
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PORT_OFFSET": "100"},
    )
    moved = json.loads(done.stdout)
    assert moved["PORT"] == "8181"
    assert moved["RAFT_PEERS"] == "node-a=127.0.0.1:7101,node-b=127.0.0.1:7102,node-c=127.0.0.1:7103"
    assert moved["RAFT_PEER_HTTP_ADDRS"].endswith("node-c=http://localhost:8182")
    assert moved["PERSISTENCE_CONFIG"] == '{"path":"data/node-b/store"}'


@pytest.mark.parametrize("name", NODES)
def test_config_check_accepts_the_env_files_of_the_local_cluster(name: str) -> None:
    checked(env_files.read(LOCAL / "common.env") | env_files.read(LOCAL / f"{name}.env"), "--dev")


def test_compose_file_defines_three_nodes_that_can_reach_each_other() -> None:
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    services = compose["services"]
    assert sorted(services) == NODES
    environments = {}
    for name, service in services.items():
        assert service["env_file"] == ["common.env"]
        environments[name] = env_files.read(COMPOSE / "common.env") | service["environment"]
        checked(environments[name])
        (volume,) = service["volumes"]
        source, path = volume.split(":")
        assert source in compose["volumes"]
        assert json.loads(environments[name]["PERSISTENCE_CONFIG"])["path"].startswith(f"{path}/")
        assert (ROOT / "Dockerfile").samefile(COMPOSE / service["build"] / "Dockerfile")
    assert len({service["volumes"][0] for service in services.values()}) == len(NODES)
    assert [name for name in NODES if environments[name].get("RAFT_BOOTSTRAP") == "true"] == ["node-a"]
    published = {name: dict(reversed(port.split(":")[-2:]) for port in services[name]["ports"]) for name in NODES}
    assert len({port for ports in published.values() for port in ports.values()}) == 3 * len(NODES)
    for name, env in environments.items():
        assert env["RAFT_SELF_ID"] == name
        assert f"{name}=http://localhost:{published[name]['8080']}" in env["RAFT_PEER_HTTP_ADDRS"].split(",")
        assert f"{name}={name}:7000" in env["RAFT_PEERS"].split(",")
        assert f"{name}=localhost:{published[name]['9092']}" in env["RAFT_PEER_GRPC_ADDRS"].split(",")
    assert [published[name]["8080"] for name in NODES] == ["8080", "8081", "8082"]
