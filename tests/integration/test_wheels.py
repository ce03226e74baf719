"""The wheels work where they are installed, outside the checkout and without the tools that built them.

The wheels use the dependencies of the test environment, so that nothing is downloaded.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cluster_client import Follower
from cluster_process import TOKEN, ClusterProcess
from codeq_server import is_compiled
from server_process import DEV_TOKEN, ServerProcess

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"codeq_server": "server", "codeq_internal": "server", "codeq_gateway": "gateway", "codeq_cli": "cli"}
FRESH_SECONDS_MAX = 60.0
LAYOUTS = "codeq_cli/install/layouts/"
BUILD = "compiled" if is_compiled() else "interpreted"
pytestmark = pytest.mark.timeout(900)  # compiled wheels take minutes

ONE_TASK = """
from codeq import Client, Producer, Task, Worker

with Producer() as producer:
    task_id = producer.create("GREET", {"name": "world"})
worker = Worker()

@worker.task("GREET")
def greet(task: Task) -> object:
    worker.stop()
    return {"greeting": "hello " + task.payload["name"]}

worker.run()
with Client() as client:
    print(client.result(task_id, wait=10).result["greeting"])
"""

IN_PROCESS = """
from codeq.testing import memory_server

with memory_server() as server, server.client() as client:
    task = client.create("GREET", delay=3600)
    server.clock.advance(seconds=3600)
    print(client.get(task.id).status)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of this project by distribution, of the same build as the tested one."""
    folder = tmp_path_factory.mktemp("dist")
    variables = {"CODEQ_COMPILE": str(int(is_compiled())), "CODEQ_PUBLISHED": "1"}
    options = ["--quiet", "--no-cache-dir", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(ROOT), str(ROOT / "sdks/python")]
    stale = ROOT / "sdks/python/build/lib/codeq/removed.py"  # as a former `pip install` leaves it
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.touch()
    with (ROOT / "build" / ".wheels.lock").open("w") as lock:  # both builds use folders of the checkout
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)
    built = [*folder.glob("*.whl"), *(ROOT / "build/raft_core_wheel").glob("*.whl")]
    return {path.name.split("-")[0]: path for path in built}


@pytest.fixture(scope="module")
def environment(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheels; returns its interpreter."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # else pip sees the checkout
    subprocess.run([*install, *map(str, wheels.values())], env=alone, check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "lib" / version / "site-packages" / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def _installed(environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Starts servers in the fresh environment, which has no other commands."""
    monkeypatch.setattr(sys, "executable", str(environment))
    monkeypatch.setenv("PATH", str(environment.parent))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)


def test_wheel_of_the_server_contains_the_layouts_of_bundles(wheels: dict[str, Path]) -> None:
    names = {name for name in zipfile.ZipFile(wheels["codeq_server"]).namelist() if name.startswith(LAYOUTS)}
    folders = ("deploy/docker-compose", "deploy/observability", "helm/codeq")
    files = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert names == {f"{LAYOUTS}{path.relative_to(ROOT)}" for path in files if "__pycache__" not in path.parts}


def test_wheels_contain_exactly_the_modules_of_the_checkout(wheels: dict[str, Path]) -> None:
    names = zipfile.ZipFile(wheels["codeq_server"]).namelist()
    modules = {
        f"{path.relative_to(ROOT / room)}"
        for package, room in PACKAGES.items()
        for path in (ROOT / room / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py") and not name.startswith(LAYOUTS)} == modules
    assert any(name.endswith(".so") for name in names) == is_compiled()
    listed = zipfile.ZipFile(wheels["codeq_sdk"]).namelist()
    source = ROOT / "sdks/python/src"
    modules = {f"{path.relative_to(source)}" for path in source.rglob("*.py")}
    assert {name for name in listed if name.endswith(".py")} == modules


@pytest.mark.usefixtures("_installed")
def test_installed_server_completes_a_task(environment: Path, tmp_path: Path) -> None:
    version = subprocess.run([environment.with_name("codeq"), "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"codeq version 0.1.0 ({BUILD})\n"
    with ServerProcess(tmp_path / "server", apart=False) as server:
        variables = {
            "CODEQ_PRODUCER_ADDR": server.producer_addr,
            "CODEQ_WORKER_ADDR": server.worker_addr,
            "CODEQ_TOKEN": DEV_TOKEN,
        }
        command = [environment, "-c", ONE_TASK]
        ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=30)
        assert (ran.stdout, ran.stderr) == ("hello world\n", "")
        assert server.stop() == 0


@pytest.mark.usefixtures("_installed")
def test_a_machine_with_only_python_serves_a_task_within_a_minute(environment: Path, tmp_path: Path) -> None:
    """The lines of docs/deployment.md for such a machine, from the installed wheel on."""
    began = time.monotonic()
    variables = {"PATH": str(environment.parent), "HOME": str(tmp_path)}
    any_port = {"PORT": "0", "WORKER_STREAM_ADDR": "127.0.0.1:0", "PRODUCER_STREAM_ADDR": "127.0.0.1:0"}

    def run(command: str, *args: str, **more: str) -> dict[str, Any]:
        line = [environment.with_name(command), *args]
        ran = subprocess.run(line, env=variables | more, cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, b""), ran.stdout
        replied: dict[str, Any] = json.loads(ran.stdout)
        return replied

    told = run("codeq", "install", "--target", "docker", "--size", "dev", "--no-prompt")
    assert (tmp_path / told["folder"] / "compose.yaml").is_file()
    assert run("codeq", "doctor", **any_port)["errors"] == 0
    with ServerProcess(tmp_path / "server", apart=False) as server:  # codeq serve --dev
        client = {"CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}
        created = run("codeq-cli", "task", "create", "GREET", "--payload", "{}", **client)
        assert run("codeq-cli", "task", "claim", "--commands", "GREET", **client)["id"] == created["id"]
        assert server.stop() == 0
    assert time.monotonic() - began < FRESH_SECONDS_MAX


@pytest.mark.usefixtures("_installed")
def test_installed_server_runs_inside_the_process_of_tests(environment: Path) -> None:
    ran = subprocess.run(
        [environment, "-c", IN_PROCESS], env={}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("PENDING\n", "")


@pytest.mark.usefixtures("_installed")
async def test_three_installed_nodes_form_a_cluster(tmp_path: Path) -> None:
    with ClusterProcess(tmp_path) as cluster:
        async with Follower(list(cluster.addresses("grpc_addr").values()), TOKEN) as client:
            await cluster.all_vote(client)
