"""The Helm chart: a text of the values, the release or the namespace arrives as it is given, or it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import rendered_chart as chart
import yaml
from rendered_chart import Manifest, find

PLAIN = "xyzzy"
"""A text that YAML takes for text in any case."""
READ_AS_OTHERS = ["123", "007", "0x10", "1e3", "true", "yes", "off", "n", "null", "2026-01-01"]
"""Names for Kubernetes that YAML takes for numbers, switches, nothing or dates unless they are quoted."""
INJECTION = "a\n      hostNetwork: true"

ROUTES = {
    "gateway.enabled": True,
    "gateway.autoscaling.enabled": True,
    "ingress.enabled": True,
    "gatewayApi.enabled": True,
    "gatewayApi.parentRefs[0].name": "public",
    "networkPolicy.enabled": True,
    "metrics.serviceMonitor.enabled": True,
    "metrics.prometheusRule.enabled": True,
    "persistence.backups.enabled": True,
    "tls.enabled": True,
}
SINGLE = {
    **ROUTES,
    "tls.certManager.enabled": True,
    "tls.certManager.issuerRef.name": "ca",
    "ingress.grpc.enabled": True,
    "gatewayApi.grpc.enabled": True,
    "persistence.artifacts.enabled": True,
}
CLUSTER = {**ROUTES, "raft.enabled": True, "replicaCount": 3, "tls.existingSecret": "tls"}
SETTINGS = {"single": SINGLE, "cluster": CLUSTER}

NAMES = [
    "auth.existingSecret",
    "fullnameOverride",
    "image.tag",
    "imagePullSecrets[0].name",
    "ingress.className",
    "ingress.grpc.tlsSecret",
    "ingress.host",
    "ingress.tlsSecret",
    "gatewayApi.hostnames[0]",
    "nameOverride",
    "persistence.backups.storageClass",
    "persistence.storageClass",
    "priorityClassName",
    "serviceAccount.name",
    "tests.tokenSecret",
]
FREE_TEXTS = [
    "config.MY_SETTING",
    "extraEnv[0].value",
    "gateway.podAnnotations.a",
    "gateway.service.annotations.a",
    "ingress.annotations.a",
    "ingress.grpc.annotations.a",
    "metrics.prometheusRule.labels.a",
    "metrics.serviceMonitor.labels.a",
    "nodeSelector.a",
    "persistence.annotations.a",
    "podAnnotations.a",
    "podLabels.a",
    "service.annotations.a",
    "service.labels.a",
    "serviceAccount.annotations.a",
]
OWN_TEXTS = {"single": ["tls.certManager.issuerRef.name", "tls.certManager.dnsNames[0]"], "cluster": []}


def arguments_of(values: Mapping[str, object]) -> list[str]:
    """Returns the arguments of helm for values by path."""
    return [part for path, value in values.items() for part in ("--set-json", f"{path}={json.dumps(value)}")]


def texts(values: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of all texts among values."""
    if isinstance(values, str):
        yield path
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from texts(value, f"{path}.{key}".removeprefix("."))


TEXTS = [*texts(yaml.safe_load((chart.CHART / "values.yaml").read_text()))]
TEXTS += [path for path in [*NAMES, *FREE_TEXTS, "extraEnv[0].name"] if path not in TEXTS]


def manifests_of(output: str) -> list[Manifest]:
    """Returns the manifests of helm's output, in which the contents of secrets, which are random, are left out."""
    manifests = [each for each in yaml.load_all(output, yaml.CSafeLoader) if each]
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            del manifest["data"]
    return manifests


def replaced(part: Any, text: str) -> Any:
    """Returns a part of a manifest with the text in each place of the plain one."""
    if isinstance(part, dict):
        return {key: replaced(value, text) for key, value in part.items()}
    if isinstance(part, list):
        return [replaced(each, text) for each in part]
    return part.replace(PLAIN, text) if isinstance(part, str) else part


def named(text: str, kind: str, paths: list[str]) -> list[Manifest]:
    """Returns the chart with the text as release, namespace and each of the values.

    The names of Services begin with a letter, so they cannot be such a text.
    """
    values = SETTINGS[kind] | {"extraEnv[0].name": "MY_VARIABLE"} | dict.fromkeys(paths, text)
    values["fullnameOverride"] = f"c{text}"
    release = ("template", text, str(chart.CHART), "--namespace", text, *chart.KUBERNETES)
    done = chart.helm(*release, *arguments_of(values))
    assert done.returncode == 0, done.stderr
    return manifests_of(done.stdout)


@pytest.mark.parametrize("text", READ_AS_OTHERS)
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_text_that_looks_like_a_number_or_a_switch_stays_the_text(kind: str, text: str) -> None:
    unnamed = [path for path in NAMES if not path.endswith("Override") and path != "auth.existingSecret"]
    for paths in (NAMES + FREE_TEXTS + OWN_TEXTS[kind], unnamed):
        assert named(text, kind, paths) == replaced(named(PLAIN, kind, paths), text)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("path", TEXTS)
def test_a_text_does_not_become_a_key_of_a_manifest(path: str, kind: str) -> None:
    values = SETTINGS[kind] | ({"extraEnv[0].name": "MY_VARIABLE"} if path == "extraEnv[0].value" else {})
    plain, injected = (chart.template(*arguments_of(values | {path: text})) for text in (PLAIN, INJECTION))

    if injected.returncode:
        field = re.split(r"[.\[]", path)[0]
        assert "specifications of the schema" in injected.stderr
        assert field in injected.stderr
    else:
        assert manifests_of(injected.stdout) == replaced(manifests_of(plain.stdout), INJECTION)


@pytest.mark.parametrize("name", ["Y", "N", "ON", "NO", "NULL", "TRUE"])
def test_a_variable_may_have_any_name(name: str) -> None:
    values = {f"config.{name}": "1", "extraEnv[0].name": f"{name}_", "extraEnv[0].value": "2"}
    [container] = find(chart.rendered(*arguments_of(values)), "StatefulSet", "codeq")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["env"][-2:] == [{"name": name, "value": "1"}, {"name": f"{name}_", "value": "2"}]


@pytest.mark.parametrize("namespace", ["a\n  b: c", "a b", "A", "a.b", "-a", "a" * 64])
def test_a_namespace_that_kubernetes_does_not_have_is_refused(namespace: str) -> None:
    done = chart.helm("template", "codeq", str(chart.CHART), "--namespace", namespace, *chart.KUBERNETES)

    assert done.returncode != 0
    assert "namespace" in done.stderr


def test_a_release_whose_name_services_cannot_have_is_refused_unless_it_is_overridden() -> None:
    release = ("template", "codeq.test", str(chart.CHART), *chart.KUBERNETES)
    refused = chart.helm(*release)

    assert refused.returncode != 0
    assert "fullnameOverride" in refused.stderr
    assert chart.helm(*release, "--set", "fullnameOverride=codeq-test").returncode == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("fullnameOverride", "UPPER_x"),
        ("fullnameOverride", "-x-"),
        ("fullnameOverride", "a.b"),
        ("fullnameOverride", "a" * 41),
        ("nameOverride", "x-"),
        ("serviceAccount.name", "my account"),
        ("serviceAccount.name", "a" * 254),
        ("priorityClassName", "High"),
        ("auth.existingSecret", "a..b"),
        ("ingress.tlsSecret", "a/b"),
        ("persistence.storageClass", "fast_disk"),
        ("image.tag", "a b"),
        ("clusterDomain", "cluster..local"),
        ("extraEnv[0].value", 8080),
        ("extraEnv[0].name", 8080),
        ("extraContainers[0].env[0].value", 8080),
        ("extraInitContainers[0].name", "Init"),
        ("imagePullSecrets[0].name", 7),
        ("config.MY_SETTING", 8080),
    ],
)
def test_a_name_that_kubernetes_refuses_or_a_variable_that_is_no_text_is_refused_by_name(
    path: str, value: object
) -> None:
    complete: dict[str, object] = {}
    if path.startswith("extra"):
        complete = {f"{path.split('.', maxsplit=1)[0]}.name": "name"}
    if path.endswith("env[0].value"):
        complete["extraContainers[0].env[0].name"] = "NAME"
    done = chart.template(*arguments_of(complete | {path: value}))

    assert done.returncode != 0
    assert "specifications of the schema" in done.stderr
    assert re.sub(r"\[(\d+)\]", r".\1", path) in done.stderr
