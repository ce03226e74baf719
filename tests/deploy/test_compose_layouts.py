"""Compose layouts: their files are there, their secrets are required, and the server accepts their settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from authority import Authority
from codeq_cli import env_files
from codeq_server.config import Settings, load
from server_process import LOOPBACK, ServerProcess, reserved_port

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = ROOT / "deploy" / "docker-compose"
FIRST_TASK = ROOT / "helm" / "codeq" / "files" / "first_task.py"
FILES = sorted(path.relative_to(LAYOUTS).as_posix() for path in LAYOUTS.glob("*/*.yaml"))
PRODUCTION = LAYOUTS / "production"
Validator = Any
_REFERENCE = re.compile(r"\$\{([A-Z_]+)(?::(-|\?)([^}]*))?\}")
FILLED_IN = {
    "CODEQ_TAG": "0.1.0",
    "TENANT": "acme",
    "PRODUCER_TOKEN": "p" * 64,
    "WORKER_TOKEN": "w" * 64,
    "WEBHOOK_HMAC_SECRET": "h" * 64,
    "CODEQ_DOMAIN": "queue.example.com",
    "TLS_DIR": "/srv/tls",
}


class MissingVariableError(Exception):
    """A variable that a layout requires is unset or empty."""


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Returns a value with its references to variables replaced, as Compose does it.

    Raises:
        MissingVariableError: A required variable is missing; the message names it.
    """

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if given := variables.get(name):
            return given
        if kind == "?":
            raise MissingVariableError(f"{name}: {rest}")
        return str(rest or "")

    return _REFERENCE.sub(value, text)


def layout(*names: str) -> dict[str, Any]:
    """Returns the services of a layout of several files, each merged into the one before."""
    services: dict[str, Any] = {}
    for name in names:
        for service, parts in yaml.safe_load((LAYOUTS / name).read_text())["services"].items():
            before = services.setdefault(service, {})
            for key, part in parts.items():
                before[key] = {**before.get(key, {}), **part} if isinstance(part, dict) else part
    return services


def moved(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Returns the variables with folders below the given one."""
    return {name: value.replace("/var/lib/codeq/", f"{folder}/") for name, value in variables.items()}


def loaded(variables: Mapping[str, str], folder: Path) -> Settings:
    """Returns the settings of a server with these variables; its folders are below the given one."""
    return load(None, moved(variables, folder), {}, dev=False)


@pytest.fixture(scope="module")
def specification() -> Validator:
    schema = json.loads((Path(__file__).parent / "compose_spec" / "compose-spec.json").read_text())
    return jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize("name", FILES)
def test_layout_follows_the_compose_specification(name: str, specification: Validator) -> None:
    content = yaml.safe_load((LAYOUTS / name).read_text())

    assert [error.message for error in specification.iter_errors(content)] == []


def test_schema_finds_an_unknown_key_and_a_wrong_type(specification: Validator) -> None:
    for key, value in [("port", ["8080:8080"]), ("read_only", 3)]:
        content = yaml.safe_load((LAYOUTS / "raft-cluster/compose.yaml").read_text())
        content["services"]["node-a"][key] = value
        assert not specification.is_valid(content)


@pytest.mark.parametrize("name", FILES)
def test_mounted_files_and_env_files_are_there(name: str) -> None:
    services = yaml.safe_load((LAYOUTS / name).read_text())["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (LAYOUTS / name).parent.joinpath(source).exists(), source
        for file in service.get("env_file", []):
            assert (LAYOUTS / name).parent.joinpath(file).is_file(), file


@pytest.mark.parametrize("name", FILES)
def test_named_volumes_are_declared(name: str) -> None:
    content = yaml.safe_load((LAYOUTS / name).read_text())
    used = {
        volume.partition(":")[0]
        for service in content["services"].values()
        for volume in service.get("volumes", [])
        if volume[0] not in "./$"
    }
    assert used == set(content.get("volumes", {}))


def test_the_server_accepts_the_settings_for_development_without_a_note(tmp_path: Path) -> None:
    assert loaded(env_files.read(LAYOUTS / "local-dev" / "codeq.env"), tmp_path).notes == ()


def first_task(server: ServerProcess, producer: str, worker: str, **variables: str) -> None:
    """Runs the chart's first task against a server."""
    addresses = {"CODEQ_PRODUCER_ADDR": server.producer_addr, "CODEQ_WORKER_ADDR": server.worker_addr}
    env = {**server.env, **addresses, "PRODUCER_TOKEN": producer, "WORKER_TOKEN": worker, **variables}
    subprocess.run([sys.executable, FIRST_TASK], env=env, check=True)


def test_the_server_of_the_layout_for_development_runs_a_task_and_its_load(tmp_path: Path) -> None:
    env = moved(env_files.read(LAYOUTS / "local-dev" / "codeq.env"), tmp_path)
    with ServerProcess(tmp_path, env=env, dev=False, store=tmp_path / "pebble") as server:
        first_task(server, "dev-token", "dev-token")
        addresses = {"CODEQ_PRODUCER_ADDR": server.producer_addr, "CODEQ_WORKER_ADDR": server.worker_addr}
        load = layout("local-dev/compose.yaml")["load"]["environment"] | addresses
        load = {name: interpolated(value, {}) for name, value in load.items()}
        creating = subprocess.Popen([sys.executable, LAYOUTS / "local-dev" / "load.py"], env=server.env | load)
        deadline = time.monotonic() + 30
        while 'codeq_task_completed_total{command="LOAD"' not in metrics_of(server):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        creating.terminate()
        assert creating.wait(30) == 0
        assert server.stop() == 0


def metrics_of(server: ServerProcess) -> str:
    """Returns a scrape of a server."""
    with urllib.request.urlopen(f"{server.http_url}/metrics") as reply:
        return str(reply.read().decode())


@pytest.mark.parametrize("own_tls", [False, True])
def test_the_server_of_the_layout_for_production_runs_a_task(tmp_path: Path, *, own_tls: bool) -> None:
    files = ["production/compose.yaml", *(["production/own-tls.yaml"] if own_tls else [])]
    certificates = Authority().files(tmp_path / "etc")
    place = {"/etc/codeq/tls/tls.crt": str(certificates.certificate), "/etc/codeq/tls/tls.key": str(certificates.key)}
    variables = layout(*files)["codeq"]["environment"]
    env = moved({name: interpolated(place.get(text, text), FILLED_IN) for name, text in variables.items()}, tmp_path)
    trusted = {"CODEQ_TLS_CA_FILE": str(certificates.ca)} if own_tls else {}
    with ServerProcess(tmp_path, env=env, dev=False, store=tmp_path / "pebble" / "store") as server:
        first_task(server, FILLED_IN["PRODUCER_TOKEN"], FILLED_IN["WORKER_TOKEN"], **trusted)
        assert server.stop() == 0


def test_the_nodes_of_the_static_cluster_share_the_tasks(tmp_path: Path) -> None:
    common, nodes = env_files.read(LAYOUTS / "cluster" / "common.env"), layout("cluster/compose.yaml")
    with ExitStack() as stack:
        held = {name: stack.enter_context(reserved_port()) for name in nodes}
        own = {f"{name}:9090": f"{LOOPBACK}:{port.getsockname()[1]}" for name, port in held.items()}
        listed = common["CLUSTER_NODES"]
        for name, place in own.items():
            listed = listed.replace(name, place)
        assert listed != common["CLUSTER_NODES"]
        servers = []
        for name, node in nodes.items():
            env = moved(common | node["environment"], tmp_path / name)
            env |= {"CLUSTER_NODES": listed, "CLUSTER_GRPC_ADDR": own[f"{name}:9090"]}
            server = ServerProcess(tmp_path / name, env=env, dev=False, store=tmp_path / name / "pebble" / "store")
            servers.append(stack.enter_context(server))
        first_task(servers[0], "dev-token", "dev-token")
        crossed = {"CODEQ_PRODUCER_ADDR": servers[1].producer_addr, "CODEQ_WORKER_ADDR": servers[2].worker_addr}
        first_task(servers[0], "dev-token", "dev-token", **crossed)
        assert [server.stop() for server in servers] == [0] * 3


@pytest.mark.parametrize("name", ["local-dev", "raft-cluster", "cluster"])
def test_a_layout_with_tokens_that_everyone_knows_is_published_on_the_loopback_only(name: str) -> None:
    ports = [port for service in layout(f"{name}/compose.yaml").values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_server_accepts_the_settings_for_production_without_a_note(tmp_path: Path) -> None:
    variables = layout("production/compose.yaml")["codeq"]["environment"]
    settings = loaded({name: interpolated(value, FILLED_IN) for name, value in variables.items()}, tmp_path)

    assert settings.notes == ()
    assert settings.persistence.fsync_on_commit


def test_the_server_accepts_certificates_of_ones_own(tmp_path: Path) -> None:
    variables = layout("production/compose.yaml", "production/own-tls.yaml")["codeq"]["environment"]
    files = Authority().files(tmp_path / "tls")
    place = {"/etc/codeq/tls/tls.crt": str(files.certificate), "/etc/codeq/tls/tls.key": str(files.key)}
    given = {name: interpolated(place.get(value, value), FILLED_IN) for name, value in variables.items()}

    assert loaded(given, tmp_path).tls_cert_file == files.certificate


@pytest.mark.parametrize("missing", ["CODEQ_TAG", "TENANT", "PRODUCER_TOKEN", "WORKER_TOKEN", "WEBHOOK_HMAC_SECRET"])
def test_production_requires_each_secret_by_name(missing: str) -> None:
    with pytest.raises(MissingVariableError, match=missing):
        interpolated((PRODUCTION / "compose.yaml").read_text(), FILLED_IN | {missing: ""})


@pytest.mark.parametrize(("file", "missing"), [("caddy.yaml", "CODEQ_DOMAIN"), ("own-tls.yaml", "TLS_DIR")])
def test_each_way_of_tls_requires_its_variable(file: str, missing: str) -> None:
    with pytest.raises(MissingVariableError, match=missing):
        interpolated((PRODUCTION / file).read_text(), FILLED_IN | {missing: ""})


def test_the_example_of_env_lists_every_variable_of_production_and_fills_in_no_secret() -> None:
    used = {match[1] for path in PRODUCTION.glob("*.yaml") for match in _REFERENCE.finditer(path.read_text())}
    example = env_files.read(PRODUCTION / "env.example")

    assert used <= set(example)
    assert {name for name, value in example.items() if value} == {"COMPOSE_FILE", "CODEQ_TAG", "LOG_LEVEL"}


def test_the_server_accepts_the_settings_of_the_systemd_unit(tmp_path: Path) -> None:
    """The lines of the file, with its examples of tokens taken in."""
    text = (ROOT / "deploy" / "systemd" / "codeq.default").read_text()
    text = re.sub(r"^#(?=(?:PRODUCER|WORKER)_AUTH)", "", text, flags=re.MULTILINE)
    text = text.replace('"token":"…","subject":"producer"', '"token":"p-secret","subject":"producer"')
    text = text.replace('"token":"…"', '"token":"w-secret"')

    assert loaded(env_files.parsed(text), tmp_path).notes == ()


def test_runbook_restores_the_store_of_the_layout_for_production() -> None:
    page = (ROOT / "docs/runbooks/back-up-and-restore.md").read_text()
    commands = page.partition("### In Compose")[2].partition("### In a pod")[0]
    settings = layout("production/compose.yaml")["codeq"]["environment"]
    store, artifacts = json.loads(settings["PERSISTENCE_CONFIG"])["path"], settings["LOCAL_ARTIFACTS_DIR"]
    assert f'store restore "{settings["BACKUP_DIR"]}/$NAME" {store} --artifacts {artifacts}\n' in commands
    assert f"mv codeq {store} {store}-before-restore\n" in commands
