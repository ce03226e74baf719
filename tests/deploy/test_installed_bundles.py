"""Bundles of `codeq install`: helm renders the one for Kubernetes, and the server accepts the settings of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from codeq_cli import env_files
from codeq_server.config import load
from rendered_chart import KUBERNETES, helm
from test_compose_layouts import interpolated

DOMAIN = "queue.example.com"


def install(folder: Path, *args: str) -> Path:
    """Writes a bundle; returns its folder."""
    command = [sys.executable, "-m", "codeq_cli.main", "install", "--output-dir", str(folder / "out"), *args]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder / "out"


@pytest.mark.parametrize("size", ["dev", "small", "medium", "large"])
def test_helm_renders_a_bundle_with_the_secret_that_it_names(tmp_path: Path, size: str) -> None:
    folder = install(tmp_path, "--target", "kubernetes", "--size", size, "--release", "jobs", "--domain", DOMAIN)
    files = [*("--values", str(folder / "chart" / f"values-{size}.yaml")), *("--values", str(folder / "values.yaml"))]
    assert helm("lint", "--strict", str(folder / "chart"), *files).returncode == 0
    done = helm("template", "jobs", str(folder / "chart"), "--namespace", "codeq", *KUBERNETES, *files)
    assert done.returncode == 0, done.stderr
    manifests = [each for each in yaml.safe_load_all(done.stdout) if each]
    _, secret = yaml.safe_load_all((folder / "secret.yaml").read_text())
    assert [each for each in manifests if each["kind"] == "Secret"] == []
    pods = yaml.safe_dump([each for each in manifests if each["kind"] in {"StatefulSet", "Deployment", "Pod"}])
    assert secret["metadata"]["name"] in pods
    [ingress] = [each for each in manifests if each["kind"] == "Ingress"]
    assert ingress["spec"]["rules"][0]["host"] == DOMAIN


def test_the_server_accepts_the_settings_of_a_compose_project_without_a_note(tmp_path: Path) -> None:
    folder = install(tmp_path, "--size", "medium", "--domain", DOMAIN, "--tenant", "acme")
    variables = env_files.read(folder / ".env")
    environment = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["codeq"]["environment"]
    given = {name: interpolated(value, variables) for name, value in environment.items()}
    settings = load(
        None, {name: each.replace("/var/lib", str(tmp_path)) for name, each in given.items()}, {}, dev=False
    )
    assert settings.notes == ()
    assert settings.auth.producer.sole_secret == variables["PRODUCER_TOKEN"]
    assert interpolated((folder / "caddy.yaml").read_text(), variables).count(DOMAIN) == 1
