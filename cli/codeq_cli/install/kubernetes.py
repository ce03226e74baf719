"""The bundle for Kubernetes: the chart, values for it, and a secret with random tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from codeq_cli import __version__, tokens
from codeq_cli.install.bundle import Bundle, Choices, File, layouts

TOOLS: Final = {
    "kubectl": "kubectl: https://kubernetes.io/docs/tasks/tools",
    "helm": "Helm 3: https://helm.sh/docs/intro/install",
}
WAIT: Final = "15m"
"""How long helm waits until all pods are ready."""


def bundle(choices: Choices) -> Bundle:
    """Returns the bundle.

    Raises:
        Failure: This installation has no layouts.
    """
    chart = layouts() / "helm" / "codeq"
    files = {f"chart/{path.relative_to(chart).as_posix()}": File(path.read_bytes()) for path in _every(chart)}
    files["values.yaml"] = File(_values(choices).encode())
    files["secret.yaml"] = File(_secret(choices).encode(), private=True)
    folder = choices.folder
    apply = ["kubectl", "apply", "--filename", str(folder / "secret.yaml")]
    upgrade = ["helm", "upgrade", "--install", choices.release, str(folder / "chart")]
    upgrade += ["--namespace", choices.namespace]
    upgrade += ["--values", str(folder / "chart" / f"values-{choices.size}.yaml")]
    upgrade += ["--values", str(folder / "values.yaml"), "--wait", "--timeout", WAIT]
    notes = [f"the tokens are in {folder / 'secret.yaml'} and in the secret {_secret_name(choices)}"]
    if choices.domain:
        notes.append(f"the ingress needs a certificate for {choices.domain} in the secret {_ingress_secret(choices)}")
    return Bundle(files, [apply, upgrade], TOOLS, notes=notes)


def _every(chart: Path) -> list[Path]:
    return sorted(path for path in chart.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _secret_name(choices: Choices) -> str:
    return f"{choices.release}-auth"


def _ingress_secret(choices: Choices) -> str:
    return f"{choices.release}-ingress-tls"


def _values(choices: Choices) -> str:
    values: dict[str, Any] = {
        "image": {"repository": choices.repository, "tag": choices.tag or __version__},
        "auth": {"existingSecret": _secret_name(choices), "tenant": choices.tenant},
    }
    if choices.digest is not None:
        values["image"]["digest"] = choices.digest
    if choices.domain:
        values["ingress"] = {"enabled": True, "host": choices.domain, "tlsSecret": _ingress_secret(choices)}
    head = (
        f"# Written by `codeq install --target kubernetes --size {choices.size}`; values of the size are in\n"
        f"# chart/values-{choices.size}.yaml, all others, with their meaning, in chart/values.yaml.\n"
    )
    return head + yaml.safe_dump(values, sort_keys=False)


def _secret(choices: Choices) -> str:
    producer, worker = tokens.secret(), tokens.secret()
    content = {
        "producer-token": producer,
        "worker-token": worker,
        "producers.json": json.dumps([tokens.producer(producer, choices.tenant)]),
        "workers.json": json.dumps([tokens.worker(worker, choices.tenant)]),
        "cluster-secret": tokens.secret(),
        "gateway-secret": tokens.secret(),
        "webhook-hmac-secret": choices.webhook_secret,
    }
    manifests: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": choices.namespace}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": _secret_name(choices), "namespace": choices.namespace},
            "type": "Opaque",
            "stringData": content,
        },
    ]
    return yaml.safe_dump_all(manifests, sort_keys=False)
