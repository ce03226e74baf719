"""The chart as helm renders it, and what a pod of it is given: variables, files and names."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "codeq"
HELM = ROOT / ".venv" / "bin" / "helm"
RELEASE, NAMESPACE = "codeq", "queues"
KUBERNETES = ("--kube-version", "1.31.0")
"""A helm built by `go install` takes every Kubernetes cluster for an old one."""
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")

Manifest = dict[str, Any]


def replaced_member() -> tuple[str, str]:
    """Returns the claim and the pod that the runbook for a lost member deletes, in this order."""
    page = (ROOT / "docs" / "runbooks" / "replace-a-member.md").read_text()
    [claim] = re.findall(r"`kubectl -n codeq delete pvc (\S+) --wait=false`", page)
    [pod] = re.findall(r"`kubectl -n codeq delete pod (\S+)`", page)
    return claim, pod


SECRET = {
    "producers.json": '[{"token":"p-secret","subject":"Operations","scopes":["codeq:operator"],'
    '"raw":{"tenantId":"acme","role":"ADMIN"}}]',
    "workers.json": '[{"token":"w-secret","subject":"worker","scopes":["codeq:claim","codeq:heartbeat","codeq:abandon",'
    '"codeq:nack","codeq:result","codeq:subscribe"],"eventTypes":["*"],"raw":{"tenantId":"acme"}}]',
    "cluster-secret": "c" * 32,
    "gateway-secret": "g" * 32,
    "webhook-hmac-secret": "h" * 32,
    "producer-token": "p-secret",
    "worker-token": "w-secret",
}
"""A secret as operators make it for `auth.existingSecret`."""


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs helm; returns its output and exit code."""
    return subprocess.run([HELM, *arguments], check=False, capture_output=True, text=True)


def template(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Renders the chart with further arguments of `helm template`."""
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *KUBERNETES, *arguments)


def rendered(*arguments: str) -> list[Manifest]:
    """Returns the manifests of the chart, with those of hooks and tests."""
    done = template(*arguments)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.load_all(done.stdout, yaml.CSafeLoader) if manifest]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Returns the manifest of a kind and name."""
    [found] = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Returns the manifests of a kind."""
    return [each for each in manifests if each["kind"] == kind]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Yields kind, metadata and spec of every pod or template of pods."""
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield "Pod", manifest["metadata"], manifest["spec"]
        elif "template" in manifest.get("spec", {}) and "containers" in manifest["spec"]["template"].get("spec", {}):
            template_of = manifest["spec"]["template"]
            yield manifest["kind"], template_of["metadata"], template_of["spec"]


def secret_of(manifests: list[Manifest], name: str) -> Mapping[str, str]:
    """Returns the content of a secret of the chart, or of the operator's if the chart has none of this name."""
    for manifest in of_kind(manifests, "Secret"):
        if manifest["metadata"]["name"] == name:
            return {key: base64.b64decode(value).decode() for key, value in manifest["data"].items()}
    return SECRET


def environment(manifests: list[Manifest], container: Manifest, pod: str) -> dict[str, str]:
    """Returns the variables of a container in the pod of a name, as the kubelet resolves them."""
    found: dict[str, str] = {}
    for variable in container.get("env", []):
        value = _value(manifests, variable, pod)
        if value is not None:
            found[variable["name"]] = _VARIABLE.sub(lambda match: found.get(match[1], match[0]), value)
    return found


def _value(manifests: list[Manifest], variable: Manifest, pod: str) -> str | None:
    if "valueFrom" not in variable:
        value = variable.get("value", "")
        assert isinstance(value, str), f"{variable['name']} is not text"
        return value
    [(kind, source)] = variable["valueFrom"].items()
    if kind == "fieldRef":
        assert source["fieldPath"] == "metadata.name"
        return pod
    if kind == "configMapKeyRef":
        content = find(manifests, "ConfigMap", source["name"])["data"]
    else:
        assert kind == "secretKeyRef"
        content = secret_of(manifests, source["name"])
    assert source.get("optional") or source["key"] in content, f"{source['name']} has no {source['key']}"
    text: str | None = content.get(source["key"])
    return text
