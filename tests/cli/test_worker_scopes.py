"""The tokens of workers in layouts, in what the command line writes, and in documents have every scope of workers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from codeq.options.v1 import options_pb2
from codeq.v1 import subscription_service_pb2, task_service_pb2, worker_service_pb2
from codeq_cli import env_files
from codeq_server.auth.claims import WORKER_SCOPES
from recording_server import Run

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    "deploy/**/*",
    "helm/**/*",
    "docs/**/*.md",
    "README.md",
    "sdks/*/README.md",
    "tests/acceptance/run_in_docker.sh",
)
LIST = re.compile(r"codeq:[a-z]+(?:[\s\"'`,]+codeq:[a-z]+)+")
"""Two or more scopes in a row."""


def lists() -> Iterator[tuple[str, frozenset[str]]]:
    """Yields every list of scopes that the repository shows to operators, with its file."""
    for pattern in PLACES:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and path.suffix != ".pyc":
                for match in LIST.finditer(path.read_text()):
                    scopes = frozenset(re.findall(r"codeq:[a-z]+", match[0]))
                    if scopes & WORKER_SCOPES:
                        yield str(path.relative_to(ROOT)), scopes


def of_calls() -> Iterator[str]:
    """Yields the scope of each call that needs one."""
    for module in (task_service_pb2, worker_service_pb2, subscription_service_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if scope := method.GetOptions().Extensions[options_pb2.access].scope:
                    yield scope


def test_the_scopes_of_workers_are_those_that_calls_need() -> None:
    assert frozenset(of_calls()) == WORKER_SCOPES


def test_every_list_of_scopes_that_operators_copy_is_complete() -> None:
    found = [*lists()]
    incomplete = [(path, sorted(WORKER_SCOPES - scopes)) for path, scopes in found if scopes != WORKER_SCOPES]
    assert incomplete == []
    layouts = {path for path, _ in found if path.startswith(("deploy/", "helm/"))}
    assert len(layouts) == 6, layouts


@pytest.mark.parametrize("file", ["codeq.yaml", "codeq.env"])
def test_init_writes_a_token_with_every_scope(run: Run, tmp_path: Path, file: str) -> None:
    assert run("init", "--no-profile", "--file", file).returncode == 0
    path = tmp_path / file
    if path.suffix == ".env":
        config = json.loads(env_files.read(path)["WORKER_AUTH_CONFIG"])
    else:
        config = yaml.safe_load(path.read_text())["workerAuthConfig"]
    assert frozenset(config["scopes"]) == WORKER_SCOPES


@pytest.mark.parametrize(
    "options", [("--size", "dev"), ("--size", "small"), ("--target", "kubernetes")], ids=["dev", "small", "kubernetes"]
)
def test_install_writes_a_token_with_every_scope(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert run("install", *options, "--output-dir", "out").returncode == 0
    folder = tmp_path / "out"
    if "--target" in options:
        _, secret = yaml.safe_load_all((folder / "secret.yaml").read_text())
        [config] = json.loads(secret["stringData"]["workers.json"])
    elif "dev" in options:
        config = json.loads(env_files.read(folder / "codeq.env")["WORKER_AUTH_CONFIG"])
    else:
        services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
        config = json.loads(services["codeq"]["environment"]["WORKER_AUTH_CONFIG"])
    assert frozenset(config["scopes"]) == WORKER_SCOPES
