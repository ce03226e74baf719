"""Rules for manifests beyond their schemas: what an API server refuses, and what linters of charts complain about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import kubernetes_validate
from rendered_chart import Manifest, of_kind, pods

KUBERNETES_VERSIONS = ("1.27", "1.31", "1.34", "1.37")
"""The oldest that the chart allows, the newest of which schemas are known, and two between."""

CUSTOM_GROUPS = {"monitoring.coreos.com", "cert-manager.io", "gateway.networking.k8s.io"}
"""Groups of custom resources, which have no schema in Kubernetes."""

SERVING = {"StatefulSet", "Deployment"}
OPERATORS_SECRETS = {"codeq-auth", "codeq-tls", "tls"}
SECRET_NAMES = ("TOKEN", "SECRET", "PASSWORD")


def schema_problems(manifests: list[Manifest]) -> Iterator[str]:
    """Yields what the strict schemas of each version of Kubernetes find."""
    for manifest in manifests:
        if manifest["apiVersion"].partition("/")[0] not in CUSTOM_GROUPS:
            text = json.dumps(manifest, sort_keys=True)
            for version in KUBERNETES_VERSIONS:
                yield from _schema_problem(text, version)


@lru_cache(maxsize=10_000)  # most combinations of values share most manifests
def _schema_problem(text: str, version: str) -> tuple[str, ...]:
    manifest = json.loads(text)
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"{manifest['kind']} {manifest['metadata']['name']}, Kubernetes {version}: {error.message}",)
    return ()


def problems(manifests: list[Manifest]) -> Iterator[str]:
    """Yields what rules other than schemas find."""
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    yield from (f"{kind} {name} is there twice" for kind, name in set(names) if names.count((kind, name)) > 1)
    for kind, metadata, spec in pods(manifests):
        what = f"{kind} {metadata.get('name') or metadata['labels']['app.kubernetes.io/component']}"
        yield from (f"{what}: {text}" for text in _pod_problems(manifests, kind, spec))
    for workload in (*of_kind(manifests, "StatefulSet"), *of_kind(manifests, "Deployment")):
        yield from _workload_problems(workload)
    yield from _reference_problems(manifests)


def _pod_problems(manifests: list[Manifest], kind: str, spec: Manifest) -> Iterator[str]:
    yield from (f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    if spec.get("enableServiceLinks") is not False:
        yield "variables of Services are not off"
    if spec.get("automountServiceAccountToken") is not False:
        yield "has a token for the API server"
    if not spec["securityContext"].get("runAsNonRoot") or not spec["securityContext"].get("runAsUser"):
        yield "may run as root"
    if spec["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if ("ServiceAccount", spec["serviceAccountName"]) not in _named(manifests):
        yield f"no ServiceAccount {spec['serviceAccountName']}"
    if any("hostPath" in volume for volume in spec.get("volumes", [])):
        yield "mounts a path of the host"
    for container in spec["containers"]:
        yield from _container_problems(container, _volumes(manifests, kind, spec))
        if kind in SERVING:
            yield from _serving_problems(container, spec)


def _volumes(manifests: list[Manifest], kind: str, spec: Manifest) -> set[str]:
    """Returns the names of a pod's volumes, with those of its claims."""
    names = {volume["name"] for volume in spec.get("volumes", [])}
    if kind == "StatefulSet":
        for each in of_kind(manifests, kind):
            names |= {claim["metadata"]["name"] for claim in each["spec"]["volumeClaimTemplates"]}
    return names


def _container_problems(container: Manifest, volumes: set[str]) -> Iterator[str]:
    image = container["image"]
    if "@sha256:" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
        yield f"image {image} has no fixed tag"
    context = container["securityContext"]
    if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"
    if not context.get("readOnlyRootFilesystem"):
        yield "may write to its root file system"
    resources = container.get("resources", {})
    if not resources.get("limits", {}).get("memory") or not resources.get("requests", {}).keys() >= {"cpu", "memory"}:
        yield "has no bound of memory, or does not say what it needs"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "uses a port of the host"
    variables = [each["name"] for each in container.get("env", [])]
    yield from (f"variable {name} is there twice" for name in set(variables) if variables.count(name) > 1)
    for variable in container.get("env", []):
        if variable["name"].endswith(SECRET_NAMES) and variable.get("value"):
            yield f"{variable['name']} is in plain sight"
    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
    yield from (f"{path} is mounted twice" for path in set(mounts) if mounts.count(path) > 1)
    missing = {mount["name"] for mount in container.get("volumeMounts", [])} - volumes
    yield from (f"no volume {name}" for name in missing)


def _serving_problems(container: Manifest, spec: Manifest) -> Iterator[str]:
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe not in container:
            yield f"has no {probe}"
        elif container[probe]["httpGet"]["port"] not in ports:
            yield f"{probe} asks at an unknown port"
    if spec.get("terminationGracePeriodSeconds", 0) <= 15:
        yield "gets no time to stop"


def _workload_problems(workload: Manifest) -> Iterator[str]:
    what, spec = f"{workload['kind']} {workload['metadata']['name']}", workload["spec"]
    if not spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items():
        yield f"{what}: its selector does not match its pods"
    several = workload["kind"] == "StatefulSet" and spec["replicas"] > 1
    if several and "podAntiAffinity" not in spec["template"]["spec"].get("affinity", {}):
        yield f"{what}: all pods may be on one node"


def _reference_problems(manifests: list[Manifest]) -> Iterator[str]:
    """Yields references that lead nowhere."""
    known = _named(manifests)
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "Service")}
    for name, spec in services.items():
        yield from _service_problems(manifests, name, spec)
    for each in of_kind(manifests, "StatefulSet"):
        if services.get(each["spec"]["serviceName"], {}).get("clusterIP") != "None":
            yield f"StatefulSet {each['metadata']['name']}: {each['spec']['serviceName']} is not a headless Service"
    for each in (*of_kind(manifests, "PodDisruptionBudget"), *of_kind(manifests, "NetworkPolicy")):
        selector = each["spec"].get("selector") or each["spec"]["podSelector"]
        if not any(_selects(selector["matchLabels"], metadata) for _, metadata, _ in pods(manifests)):
            yield f"{each['kind']} {each['metadata']['name']} selects no pod"
    for each in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) not in known:
            yield f"HorizontalPodAutoscaler {each['metadata']['name']} scales nothing"
    ports = {(name, port[key]) for name, spec in services.items() for port in spec["ports"] for key in ("name", "port")}
    for manifest in manifests:
        what = f"{manifest['kind']} {manifest['metadata']['name']}"
        for key, value in _parts(manifest):
            yield from (f"{what}: {text}" for text in _dangling(key, value, known, ports))


def _service_problems(manifests: list[Manifest], name: str, spec: Manifest) -> Iterator[str]:
    chosen = [pod for _, metadata, pod in pods(manifests) if _selects(spec["selector"], metadata)]
    if len(chosen) != 1:
        yield f"Service {name} selects {len(chosen)} kinds of pods"
        return
    ports = {port["name"] for container in chosen[0]["containers"] for port in container["ports"]}
    yield from (
        f"Service {name}: pods have no port {port['targetPort']}"
        for port in spec["ports"]
        if port["targetPort"] not in ports
    )


def _parts(part: Any) -> Iterator[tuple[str, Any]]:
    """Yields every key below a part of a manifest, with its value."""
    if isinstance(part, list):
        for each in part:
            yield from _parts(each)
    elif isinstance(part, dict):
        for key, value in part.items():
            yield key, value
            yield from _parts(value)


def _dangling(key: str, value: Any, known: set[tuple[str, str]], ports: set[tuple[str, str | int]]) -> Iterator[str]:
    """Yields what a part of a manifest refers to by name although it is not there."""
    match key:
        case "secretKeyRef":
            if value["name"] not in OPERATORS_SECRETS and ("Secret", value["name"]) not in known:
                yield f"no Secret {value['name']}"
        case "configMapKeyRef":
            if ("ConfigMap", value["name"]) not in known:
                yield f"no ConfigMap {value['name']}"
        case "backend":
            if (value["service"]["name"], value["service"]["port"]["name"]) not in ports:
                yield f"no Service for {value['service']}"
        case "backendRefs":
            yield from (f"no Service for {each}" for each in value if (each["name"], each["port"]) not in ports)


def _named(manifests: list[Manifest]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in manifests}


def _selects(selector: Manifest, metadata: Manifest) -> bool:
    return bool(selector.items() <= metadata["labels"].items())
