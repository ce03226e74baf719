"""Clients generated from the OpenAPI document by stock generators complete a task, one in each language."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate
from server_process import DEV_TOKEN, ServerProcess

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / ".tools"
NODE = HERE / "node" / "node_modules"
SECONDS_MAX = 240
"""Time that a generator or compiler may take on a busy machine."""

pytestmark = pytest.mark.timeout(3 * SECONDS_MAX)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("clients")) as running:
        yield running


@pytest.fixture
def document(server: ServerProcess, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(httpx.get(f"{server.http_url}/openapi.json").content)
    return path


def run(folder: Path, *command: str | Path) -> str:
    """Returns the output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_openapi_document_passes_a_validator(document: Path) -> None:
    validate(json.loads(document.read_bytes()))


def test_generated_python_client_completes_a_task(server: ServerProcess, document: Path, tmp_path: Path) -> None:
    bin_folder = TOOLS / "clients" / "bin"
    said = run(
        tmp_path, bin_folder / "openapi-python-client", "generate", "--path", document, "--output-path", "generated",
        "--meta", "none",
    )  # fmt: skip
    assert "WARNING" not in said
    shutil.copy(HERE / "python" / "one_task.py", tmp_path)
    assert run(tmp_path, bin_folder / "python", "one_task.py", server.http_url, DEV_TOKEN, "PYTHON") == "COMPLETED 21\n"


def test_generated_typescript_client_completes_a_task(server: ServerProcess, document: Path, tmp_path: Path) -> None:
    # Keeps fields with a default optional; otherwise the generator would make callers send them.
    generate = [NODE / ".bin" / "openapi-typescript", document, "-o", "generated.ts", "--default-non-nullable=false"]
    run(tmp_path, *generate)
    for name in ("one_task.ts", "tsconfig.json", "package.json"):
        shutil.copy(HERE / "node" / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE)
    run(tmp_path, NODE / ".bin" / "tsc")
    assert run(tmp_path, "node", "built/one_task.js", server.http_url, DEV_TOKEN, "NODE") == "COMPLETED 21\n"


def test_generated_go_client_completes_a_task(server: ServerProcess, document: Path, tmp_path: Path) -> None:
    for path in (HERE / "go").iterdir():
        shutil.copy(path, tmp_path)
    run(tmp_path, TOOLS / "bin" / "oapi-codegen", "-config", "oapi-codegen.yaml", "-o", "client.gen.go", document)
    run(tmp_path, "go", "build", "-o", "one_task", ".")
    assert run(tmp_path, tmp_path / "one_task", server.http_url, DEV_TOKEN, "GO") == "COMPLETED 21\n"
