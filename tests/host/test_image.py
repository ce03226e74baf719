"""The image: built without a registry, and run with the lines of the documents, in a network of its own."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from docker_stand_in import STATE_VARIABLE, Engine
from documented import PARTS
from host_images import Image
from host_tools import need, run
from namespaces import Namespaces

pytestmark = [pytest.mark.host, pytest.mark.timeout(1800)]

NAME = "ghcr.io/osvaldoandrade/codeq-service:latest"
BUILT = "codeq"
"""Name of an image that was built as docs/deployment.md says."""
USER_ID = 10001
HERE = Path(__file__).resolve().parent
CLUSTER_ENV = HERE.parents[1] / "deploy" / "docker-compose" / "raft-cluster" / "common.env"
RESTORE = HERE.parents[1] / "docs" / "runbooks" / "back-up-and-restore.md"
FIRST_TASK = HERE.parents[1] / "helm" / "codeq" / "files" / "first_task.py"
STREAMS = {
    "CODEQ_PRODUCER_ADDR": "localhost:9092",
    "CODEQ_WORKER_ADDR": "localhost:9091",
    "PRODUCER_TOKEN": "dev-token",
    "WORKER_TOKEN": "dev-token",
}
BACK_UP = "docker exec codeq env CODEQ_TOKEN=dev-token HOME=/tmp /app/venv/bin/codeq backup first"
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
DOWNLOAD_BYTES_MAX = 150 << 20
"""Size of the image as registries hold it."""
MEMORY_BYTES_MAX = 256 << 20


class Machine:
    """A machine with `docker`: a folder, a network with one address, and a shell."""

    def __init__(self, folder: Path, image: Image, spaces: Namespaces, node: str) -> None:
        """Puts the image where the stand-in finds it."""
        self._folder, self._prefix = folder, spaces.prefix(node)
        self._state = folder / "docker"
        self._programs = folder / "programs"
        for path in (self._state, self._programs):
            path.mkdir(parents=True, exist_ok=True)
        held = {"root": str(image.root), "settings": image.settings}
        (self._state / "images.json").write_text(json.dumps({NAME: held, BUILT: held}))
        docker = self._programs / "docker"
        docker.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "docker_stand_in.py"} "$@"\n')
        docker.chmod(0o755)

    @property
    def engine(self) -> Engine:
        """What the command `docker` of this machine works on."""
        return Engine(self._state)

    def volume(self, name: str) -> Path:
        """Returns the folder of a volume."""
        return self._state / "volumes" / name

    def shell(self, script: str, **variables: str) -> str:
        """Runs lines in a shell and returns their output."""
        path = f"{self._programs}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, STATE_VARIABLE: str(self._state), **variables}
        return run(*self._prefix, "bash", "-eu", "-c", script, cwd=self._folder, env=env).strip()

    def process(self, container: str = "codeq") -> psutil.Process:
        """Returns the first process of a container."""
        return psutil.Process(self.engine.process_of(container))

    def wait_ended(self, container: str = "codeq") -> None:
        """Waits until a container has ended by itself."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while self.engine.is_running(container):
            assert time.monotonic() < deadline, f"runs still:\n{self.engine.log(container)[-5000:]}"
            time.sleep(POLL_SECONDS)

    def wait_ready(self, container: str = "codeq", port: int = 8080) -> float:
        """Waits until the server is ready and returns how long it took."""
        began = time.monotonic()
        while subprocess.run(
            [*self._prefix, "curl", "-skf", "-o", "/dev/null", f"http://localhost:{port}/readyz"], check=False
        ).returncode:
            waited = time.monotonic() - began
            assert waited < READY_SECONDS_MAX, f"not ready in time:\n{self.engine.log(container)[-5000:]}"
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began

    def close(self) -> None:
        """Kills the containers."""
        with ExitStack() as stack:  # which goes on if one cannot be killed
            for state in (self._state / "containers").glob("*.json"):
                stack.callback(lambda name=state.stem: print(self.engine.log(name)[-5000:]))
                stack.callback(self.shell, f"docker kill {state.stem}")


@pytest.fixture
def machine(image: Image, tmp_path: Path) -> Iterator[Machine]:
    need("curl", "jq", "ip")
    with Namespaces(["docker"]) as spaces:
        made = Machine(tmp_path, image, spaces, "docker")
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def served(machine: Machine) -> Machine:
    """A machine on which the page's container is ready."""
    for part in ("env", "run"):
        machine.shell(PARTS[part])
    machine.wait_ready()
    return machine


def test_image_settings_match_the_documentation(image: Image) -> None:
    settings = image.settings
    assert settings["Entrypoint"] == ["/app/codeq-server"]
    assert settings["User"].split(":")[0] == str(USER_ID)
    assert set(settings["ExposedPorts"]) == {"8080/tcp", "9091/tcp", "9092/tcp"}
    assert set(settings["Volumes"]) == {"/var/lib/codeq/pebble", "/var/lib/codeq/artifacts"}
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in settings["Labels"].items()}
    assert labels.keys() >= {"title", "description", "url", "source", "documentation", "licenses", "version", "created"}
    assert labels["revision"] == "of-a-test"
    for folder in ("pebble", "artifacts", "backups"):
        assert (image.root / "var/lib/codeq" / folder).stat().st_uid == USER_ID


def test_image_has_no_compiler_and_no_installer(image: Image) -> None:
    programs = {path.name for part in ("bin", "local/bin") for path in (image.root / "usr" / part).iterdir()}
    programs |= {path.name for path in (image.root / "app/venv/bin").iterdir()}
    assert [name for name in programs if re.fullmatch(r"(pip[\d.]*|cc|gcc.*|c\+\+|cargo|curl|wget)", name)] == []
    assert list((image.root / "app/venv").glob("lib/*/site-packages/pip")) == []
    extensions = list((image.root / "app/venv").glob("lib/*/site-packages/codeq_server/core/*.so"))
    assert bool(extensions) == (os.environ.get("CODEQ_COMPILED_IMAGE") == "1")


def test_image_lists_its_packages(image: Image) -> None:
    document = json.loads((image.root / "app/sbom.cdx.json").read_text())
    versions = {each["name"]: each["version"] for each in document["components"]}

    assert document["bomFormat"] == "CycloneDX"
    assert len({each["bom-ref"] for each in document["components"]}) == len(document["components"])
    installed = list((image.root / "app/venv").glob("lib/*/site-packages/*.dist-info"))
    python = [each for each in document["components"] if each["purl"].startswith("pkg:pypi/")]
    assert len(python) == len(installed) > 20
    assert {"codeq-server", "codeq-sdk", "grpcio", "rocksdict", "python", "libc6"} <= versions.keys()


def test_image_is_small(image: Image) -> None:
    packed = subprocess.run(["tar", "-C", str(image.root), "-cf", "-", "."], check=True, capture_output=True).stdout
    size = len(gzip.compress(packed, 6))
    print(f"{len(packed) / (1 << 20):.0f} MiB, packed {size / (1 << 20):.0f} MiB")
    assert size < DOWNLOAD_BYTES_MAX


def test_the_page_run_in_docker_works_as_printed(machine: Machine) -> None:
    for part in ("pull", "env", "run"):
        machine.shell(PARTS[part])
    started = machine.wait_ready()
    print(f"ready after {started:.1f} s")
    log = machine.shell(PARTS["logs"])
    assert ":8080" in log
    assert "/var/lib/codeq/pebble" in log
    assert machine.shell(PARTS["metrics"]).startswith("# HELP")
    machine.shell(PARTS["streams"])
    machine.wait_ready()
    assert "Hello, world!" in machine.shell(f"{sys.executable} {FIRST_TASK}", **STREAMS)
    task_id, *_, status = machine.shell(PARTS["tasks"]).splitlines()
    assert status == '"COMPLETED"'
    for part in ("restart", "upgrade"):
        machine.shell(PARTS[part])
        machine.wait_ready()
        assert machine.shell(PARTS["status"], TASK_ID=task_id) == '"COMPLETED"'


def test_killed_container_keeps_its_tasks_on_its_volume(served: Machine) -> None:
    task_id, *_ = served.shell(PARTS["tasks"]).splitlines()
    served.shell("docker kill codeq && docker start codeq")
    served.wait_ready()
    assert served.shell(PARTS["status"], TASK_ID=task_id) == '"COMPLETED"'


def test_server_of_the_container_has_no_rights_and_needs_little_memory(served: Machine) -> None:
    [line] = [each for each in served.shell("docker exec codeq cat /proc/1/status").splitlines() if "CapBnd" in each]
    assert int(line.split()[1], 16) == 0
    assert served.shell("docker exec codeq id -u") == str(USER_ID)
    assert served.process().cmdline()[1] == "/app/codeq-server"
    for _ in range(50):
        served.shell(PARTS["tasks"])
    assert served.process().memory_info().rss < MEMORY_BYTES_MAX
    with pytest.raises(AssertionError, match="Read-only file system"):
        served.shell("docker exec codeq touch /app/a")


def test_health_check_asks_at_the_configured_port(image: Image, machine: Machine) -> None:
    check = image.settings["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    command = " ".join(check[1:])
    machine.shell(PARTS["env"] + "\nsed -i s/8080/8181/ codeq.env")
    machine.shell(f"docker run -d --name codeq --read-only -p 8181:8181 --env-file codeq.env {NAME}")
    machine.wait_ready(port=8181)
    assert "ok" in machine.shell(f"docker exec codeq {command}")
    with pytest.raises(AssertionError, match="no server answers at localhost:8080"):
        machine.shell(f"docker exec codeq env PORT=8080 {command}")


def start_with_backups(machine: Machine, *flags: str, data: str = "codeq-data") -> None:
    """Starts a server with an operator's token, and a volume each for data, artifacts and backups."""
    operator = (
        PARTS["env"]
        .split("PRODUCER_AUTH_CONFIG=")[1]
        .splitlines()[0]
        .replace('"raw"', '"scopes":["codeq:operator"],"raw"')
    )
    machine.shell(
        "docker run -d --name codeq --env-file codeq.env -e BACKUP_DIR=/var/lib/codeq/backups "
        f"-e PRODUCER_AUTH_CONFIG='{operator}' {' '.join(flags)} -v {data}:/var/lib/codeq/pebble "
        f"-v codeq-artifacts:/var/lib/codeq/artifacts -v codeq-backups:/var/lib/codeq/backups {BUILT}"
    )
    machine.wait_ready()


def test_backups_go_to_the_folder_of_the_image(machine: Machine) -> None:
    machine.shell(PARTS["env"])
    start_with_backups(machine)
    machine.shell(BACK_UP)
    assert (machine.volume("codeq-backups") / "first").is_dir()


def test_the_runbook_restores_a_backup_into_a_new_volume(machine: Machine) -> None:
    machine.shell(PARTS["env"])
    start_with_backups(machine)
    before, *_ = machine.shell(PARTS["tasks"]).splitlines()
    machine.shell(BACK_UP)
    after, *_ = machine.shell(PARTS["tasks"]).splitlines()
    page = RESTORE.read_text().partition("### In a container\n")[2].partition("\n### ")[0]
    [commands] = re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [(data, former, setting)] = re.findall(r"with `([\w-]+)` in place of `([\w-]+)` and `(-e '[^`]+')`", page)
    assert former == "codeq-data"
    machine.shell(commands, NAME="first")
    start_with_backups(machine, setting, data=data)
    assert machine.shell(PARTS["status"], TASK_ID=before) == '"COMPLETED"'
    assert machine.shell(PARTS["status"], TASK_ID=after) == "null"
    assert machine.shell(PARTS["tasks"]).splitlines()[-1] == '"COMPLETED"'


def test_folder_of_the_host_must_belong_to_the_user_of_the_image(machine: Machine) -> None:
    machine.shell(PARTS["env"] + "\nmkdir store")
    start = f"docker run -d --name codeq --env-file codeq.env -v $PWD/store:/var/lib/codeq/pebble {NAME}"
    machine.shell(start)
    machine.wait_ended()
    assert "cannot be written to" in machine.shell("docker logs codeq")
    machine.shell(f"docker rm codeq\nchown {USER_ID}:{USER_ID} store\n{start}")
    machine.wait_ready()


def test_three_containers_with_the_lines_of_deployment_modes_are_a_cluster(image: Image, tmp_path: Path) -> None:
    need("curl", "jq", "ip")
    nodes = ["node-a", "node-b", "node-c"]
    with Namespaces(nodes) as spaces, ExitStack() as stack:
        known = " ".join(f"--add-host {node}:{spaces.hosts[node]}" for node in nodes)
        addresses = ",".join(f"{node}=http://{spaces.hosts[node]}:8080" for node in nodes)
        machines = {node: Machine(tmp_path / node, image, spaces, node) for node in nodes}
        for node, machine in machines.items():
            stack.callback(machine.close)
            machine.shell(
                f"docker run -d --name {node} {known} --env-file {CLUSTER_ENV} -e RAFT_SELF_ID={node} "
                f"-e RAFT_PEER_HTTP_ADDRS={addresses} {'-e RAFT_BOOTSTRAP=true' if node == 'node-a' else ''} "
                f"-v {node}:/var/lib/codeq/pebble {NAME}"
            )
        for node, machine in machines.items():
            machine.wait_ready(node)
        task_id, *_, status = follow(machines["node-b"], PARTS["tasks"]).splitlines()
        assert status == '"COMPLETED"'
        for node, machine in machines.items():
            machine.shell(f"docker kill {node}")
            machine.shell(f"docker start {node}")
            machine.wait_ready(node)
            assert follow(machine, PARTS["status"], TASK_ID=task_id) == '"COMPLETED"'


def follow(machine: Machine, script: str, **variables: str) -> str:
    """Runs lines of the page against a cluster: a follower redirects to the leader."""
    again = "--location-trusted --retry 20 --retry-all-errors --retry-delay 1 -f"
    return machine.shell(script.replace("curl -s", f"curl -s {again}"), **variables)
