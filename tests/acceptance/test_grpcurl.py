"""The server as grpcurl sees it: reflection, health, and a task created over gRPC and completed over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_process import DEV_TOKEN, ServerProcess

TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "bin"
AUTH = {"Authorization": f"Bearer {DEV_TOKEN}"}


def grpcurl(address: str, *arguments: str) -> str:
    """Runs grpcurl; flags come first, as it requires."""
    program = shutil.which("grpcurl", path=TOOLS) or shutil.which("grpcurl")
    assert program, "grpcurl is missing: `make setup-dev` builds it"
    flags, words = [a for a in arguments if a.startswith(("-", "{"))], [a for a in arguments if a[0] not in "-{"]
    flags = [part for flag in flags for part in (("-d", flag) if flag.startswith("{") else (flag,))]
    command = [program, "-plaintext", "-H", f"authorization: Bearer {DEV_TOKEN}", *flags, address, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("front", ["worker_addr", "producer_addr"])
def test_grpcurl_lists_and_describes_every_service_on_every_listener(server: ServerProcess, front: str) -> None:
    address = getattr(server, front)
    services = set(grpcurl(address, "list").split())
    assert services >= {
        "codeq.v1.TaskService",
        "codeq.v1.ProducerService",
        "codeq.v1.WorkerService",
        "codeq.v1.QueueService",
        "codeq.v1.ServerService",
        "grpc.health.v1.Health",
    }
    assert "rpc CreateTask" in grpcurl(address, "describe", "codeq.v1.TaskService")
    for symbol in ("codeq.v1.TaskService.CreateTask", "codeq.v1.WorkerService.Work", "codeq.v1.Task.payload"):
        assert symbol.rpartition(".")[2] in grpcurl(address, "describe", symbol)
    assert "rpc ServerReflectionInfo" in grpcurl(address, "describe", "grpc.reflection.v1.ServerReflection")


@pytest.mark.parametrize("symbol", ["codeq.v1.TaskService.None", "codeq.v1.None.CreateTask", "None"])
def test_grpcurl_describe_reports_an_unknown_symbol(server: ServerProcess, symbol: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        grpcurl(server.producer_addr, "describe", symbol)
    assert "not found" in failed.value.stderr.lower()


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_buf_curl_reads_the_schema_with_both_reflection_versions(server: ServerProcess, protocol: str) -> None:
    program = shutil.which("buf", path=Path(sys.executable).parent) or shutil.which("buf")
    assert program, "buf is missing: `make setup-dev` installs it"
    command = [program, "curl", "--reflect", "--reflect-protocol", protocol, "--protocol", "grpc"]
    command += ["--http2-prior-knowledge", "-H", f"authorization: Bearer {DEV_TOKEN}", "-d", "{}"]
    url = f"http://{server.producer_addr}/codeq.v1.ServerService/GetServerInfo"
    answer = subprocess.run([*command, url], capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(answer.stdout)["server"]["version"]


def test_grpcurl_health_check_reports_serving(server: ServerProcess) -> None:
    for service in ("", "codeq.v1.TaskService"):
        answer = grpcurl(server.worker_addr, json.dumps({"service": service}), "grpc.health.v1.Health/Check")
        assert json.loads(answer) == {"status": "SERVING"}


def test_task_created_by_grpcurl_is_completed_over_http(server: ServerProcess) -> None:
    request = {"spec": {"command": "SHIP", "payload": "eyJuIjogMX0=", "priority": 2}}
    created = json.loads(grpcurl(server.producer_addr, json.dumps(request), "codeq.v1.TaskService/CreateTask"))
    with httpx.Client(base_url=f"{server.http_url}/v1/codeq", headers=AUTH) as http:
        claimed = http.post("/tasks/claim", json={"commands": ["SHIP"]}).json()
        assert (claimed["id"], claimed["payload"]) == (created["task"]["id"], {"n": 1})
        assert http.post(f"/tasks/{claimed['id']}/result", json={"status": "COMPLETED"}).status_code == 200
        assert http.get(f"/tasks/{claimed['id']}").json()["status"] == "COMPLETED"
