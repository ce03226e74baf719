"""The Helm chart: every size with every option renders, and its pods start with settings that the server accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import rendered_chart as chart
import yaml
from authority import Authority
from chart_rules import KUBERNETES_VERSIONS, problems, schema_problems
from codeq_server.config import Settings, load, load_gateway
from rendered_chart import Manifest, environment, find, of_kind, pods, rendered

SIZES = ["dev", "small", "medium", "large"]
CLUSTERS = {"medium", "large"}
OPTIONS: dict[str, list[str]] = {
    "default": [],
    "own secret": ["auth.existingSecret=codeq-auth"],
    "TLS": ["tls.enabled=true", "tls.existingSecret=codeq-tls"],
    "TLS by cert-manager": ["tls.enabled=true", "tls.certManager.enabled=true", "tls.certManager.issuerRef.name=ca"],
    "certificates of clients": ["tls.enabled=true", "tls.existingSecret=codeq-tls", "tls.clientAuth=require"],
    "certificates on request": ["tls.enabled=true", "tls.existingSecret=codeq-tls", "tls.clientAuth=request"],
    "gateways": ["gateway.enabled=true"],
    "ingress": ["gateway.enabled=true", "ingress.enabled=true", "ingress.tlsSecret=tls"],
    "routes": ["gateway.enabled=true", "gatewayApi.enabled=true", "gatewayApi.parentRefs[0].name=public"],
    "network policy": ["networkPolicy.enabled=true", "networkPolicy.clients[0].namespaceSelector.matchLabels.a=b"],
    "monitoring": ["metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true"],
    "backups": ["persistence.backups.enabled=true", "persistence.storageClass=fast"],
    "no gateways": ["gateway.enabled=false", "networkPolicy.enabled=false"],
    "identity provider": [
        "auth.producer.provider=jwks",
        "auth.producer.config.issuer=https://id.example",
        "auth.producer.config.audience=codeq",
    ],
    "settings and extras": [
        "config.RETENTION_SECONDS=3600000",
        "extraEnv[0].name=DISK_RESERVE_BYTES",
        "extraEnv[0].value=1000000000",
        "podAnnotations.a=b",
        "podLabels.c=d",
        "nodeSelector.disk=fast",
        "antiAffinity=hard",
        "priorityClassName=high",
    ],
    "everything": [
        "auth.existingSecret=codeq-auth",
        "tls.enabled=true",
        "tls.existingSecret=codeq-tls",
        "tls.clientAuth=require",
        "gateway.enabled=true",
        "ingress.enabled=true",
        "gatewayApi.enabled=true",
        "gatewayApi.parentRefs[0].name=public",
        "networkPolicy.enabled=true",
        "metrics.serviceMonitor.enabled=true",
        "metrics.prometheusRule.enabled=true",
        "persistence.backups.enabled=true",
    ],
}
TEXTS = ("config.", "extraEnv[0].value")
COMBINATIONS = [(size, option) for size, option in product(SIZES, OPTIONS)]


def arguments_of(size: str, *settings: str) -> list[str]:
    """Returns the arguments of helm for a size with further values."""
    given = ["--values", str(chart.CHART / f"values-{size}.yaml")]
    for setting in settings:
        given += ["--set-string" if setting.startswith(TEXTS) else "--set", setting]
    return given


def names(kind: str, manifests: list[Manifest]) -> set[str]:
    """Returns the names of the manifests of a kind."""
    return {manifest["metadata"]["name"] for manifest in of_kind(manifests, kind)}


class Mounted:
    """The folders of pods below a folder of the test, with the files that a secret brings."""

    def __init__(self, folder: Path, manifests: list[Manifest]) -> None:
        """Writes the files."""
        self.folder = folder
        (folder / "etc/codeq/auth").mkdir(parents=True)
        for name, content in chart.secret_of(manifests, "codeq").items():
            (folder / "etc/codeq/auth" / name).write_text(content)
        authority = Authority()
        pair = authority.sign()
        tls = folder / "etc/codeq/tls"
        tls.mkdir()
        parts = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.pem}
        for file, content_of_file in parts.items():
            (tls / file).write_bytes(content_of_file)

    def moved(self, variables: dict[str, str]) -> dict[str, str]:
        """Returns variables whose paths lead into the folder."""
        return {
            name: value.replace("/etc/codeq/", f"{self.folder}/etc/codeq/").replace(
                "/var/lib/codeq/", f"{self.folder}/var/lib/codeq/"
            )
            for name, value in variables.items()
        }


def settings_of(manifests: list[Manifest], folder: Path, pod: str = "codeq-0") -> Settings:
    """Returns the settings with which the server of a pod starts; the host name of a pod is its name."""
    [container] = find(manifests, "StatefulSet", "codeq")["spec"]["template"]["spec"]["containers"]
    variables = Mounted(folder, manifests).moved(environment(manifests, container, pod))
    with patch("socket.gethostname", return_value=pod):
        return load(None, variables, {}, dev=False)


@pytest.mark.parametrize(("size", "option"), COMBINATIONS)
def test_every_size_renders_with_every_option_and_its_parts_fit_together(
    size: str, option: str, tmp_path: Path
) -> None:
    manifests = rendered(*arguments_of(size, *OPTIONS[option]))

    for manifest in manifests:
        assert manifest["metadata"]["namespace"] == chart.NAMESPACE
        assert len(manifest["metadata"]["name"]) <= 63
    assert list(schema_problems(manifests)) == []
    assert list(problems(manifests)) == []
    linted = chart.helm("lint", "--strict", str(chart.CHART), *chart.KUBERNETES, *arguments_of(size, *OPTIONS[option]))
    assert linted.returncode == 0, linted.stdout

    settings = settings_of(manifests, tmp_path)
    assert [note for note in settings.notes if "no effect" in note.message] == []
    assert (settings.raft is not None) == (size in CLUSTERS)
    if settings.raft is not None:
        assert list(settings.raft.peers) == [f"codeq-{number}" for number in range({"medium": 3, "large": 5}[size])]
        assert settings.raft.bootstrap
    for deployment in of_kind(manifests, "Deployment"):
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        variables = Mounted(tmp_path / "gateway", manifests).moved(environment(manifests, container, "gateway"))
        assert load_gateway(None, variables, {}, dev=False).gateway_secret == settings.gateway_secret


def test_members_take_their_names_from_their_pods_and_differ_in_nothing_else(tmp_path: Path) -> None:
    manifests = rendered(*arguments_of("medium"))
    first, second = (settings_of(manifests, tmp_path / pod, pod).raft for pod in ("codeq-0", "codeq-1"))

    assert first is not None
    assert second is not None
    assert (first.self_id, second.self_id) == ("codeq-0", "codeq-1")
    assert first.peers == second.peers
    assert first.peers["codeq-1"] == "codeq-1.codeq-members.queues.svc.cluster.local:7000"
    assert second.peer_http_addrs == {"codeq-1": "http://codeq-1.codeq-members.queues.svc.cluster.local:8080"}
    assert second.peer_grpc_addrs["codeq-1"] == "codeq-1.codeq-members.queues.svc.cluster.local:9092"
    assert first.bootstrap
    assert not second.bootstrap
    assert find(manifests, "Service", "codeq-members")["spec"]["publishNotReadyAddresses"]
    assert find(manifests, "StatefulSet", "codeq")["spec"]["podManagementPolicy"] == "Parallel"


def test_a_cluster_that_grows_restarts_no_member() -> None:
    three, five = (
        find(rendered(*arguments_of("medium", f"replicaCount={count}", *SAME_SECRET)), "StatefulSet", "codeq")["spec"]
        for count in (3, 5)
    )
    assert (three.pop("replicas"), five.pop("replicas")) == (3, 5)
    assert three == five


SAME_SECRET = ["auth.existingSecret=codeq-auth"]


def test_tokens_of_the_chart_work_for_producers_and_workers_of_the_tenant(tmp_path: Path) -> None:
    manifests = rendered(*arguments_of("dev", "auth.tenant=acme"))
    content = chart.secret_of(manifests, "codeq")

    [producer] = json.loads(content["producers.json"])
    [worker] = json.loads(content["workers.json"])
    assert producer["token"] == content["producer-token"]
    assert worker["token"] == content["worker-token"] != content["producer-token"]
    assert {producer["raw"]["tenantId"], worker["raw"]["tenantId"]} == {"acme"}
    assert len(content["producer-token"]) >= 32
    assert settings_of(manifests, tmp_path).notes == ()


CERTIFICATE = OPTIONS["TLS by cert-manager"]
SCALED = ["gateway.enabled=true", "gateway.autoscaling.enabled=true"]


@pytest.mark.parametrize(
    ("size", "settings", "error"),
    [
        ("medium", ["replicaCount=1"], "replicaCount: a cluster"),
        ("small", ["replicaCount=3"], "replicaCount: without raft.enabled"),
        ("small", ["replicaCount=2"], "replicaCount"),
        ("medium", ["persistence.artifacts.enabled=true"], "persistence.artifacts.enabled"),
        ("medium", ["gateway.enabled=false", "ingress.enabled=true"], "gateway.enabled"),
        ("medium", ["ingress.enabled=true", "ingress.grpc.enabled=true"], "grpc.enabled"),
        ("small", ["tls.enabled=true"], "tls.enabled"),
        ("small", ["auth.producer.provider=jwks"], "auth.producer.config"),
        ("small", ["gatewayApi.enabled=true"], "parentRefs"),
        ("small", ["persistence.sizes=1Gi"], "sizes"),
        ("small", ["auth.tenant=Acme"], "auth"),
        ("small", ["numShards=33"], "numShards"),
        ("medium", ["numShards=4"], "numShards: a cluster"),
        ("small", ["tls.clientAuth=require"], "tls.clientAuth"),
        ("small", ["tls.clientAuth=request"], "tls.clientAuth"),
        ("small", [*CERTIFICATE, "tls.certManager.renewBefore=2161h"], "tls.certManager.renewBefore"),
        ("small", [*CERTIFICATE, "tls.certManager.duration=43200m"], "tls.certManager.renewBefore"),
        ("small", [*SCALED, "gateway.autoscaling.maxReplicas=1"], "gateway.autoscaling.minReplicas"),
        ("large", ["gateway.autoscaling.minReplicas=13"], "gateway.autoscaling.minReplicas"),
        ("small", ["persistence.size=0Gi"], "persistence.size"),
        ("small", ["persistence.size=0.0Gi"], "persistence.size"),
        ("small", ["persistence.backups.size=0"], "persistence.backups.size"),
        ("small", ["config.PORT=1"], "config: PORT"),
        ("small", ["config.PERSISTENCE_CONFIG=a"], "config: PERSISTENCE_CONFIG"),
        ("small", ["config.WEBHOOK_HMAC_SECRET=a"], "config: WEBHOOK_HMAC_SECRET"),
        ("small", ["config.WORKER_AUTH_CONFIG=a"], "config: WORKER_AUTH_CONFIG"),
        ("small", ["config.BACKUP_DIR=/srv"], "config: BACKUP_DIR"),
        ("small", ["config.RAFT_ENABLED=true"], "config: RAFT_ENABLED"),
        ("medium", ["config.RAFT_EXPECTED_NODES=3"], "config: RAFT_EXPECTED_NODES"),
        ("medium", ["config.RAFT_PEERS_DNS=a"], "config: RAFT_PEERS_DNS"),
        ("small", [*OPTIONS["TLS"], "config.TLS_CERT_FILE=a"], "config: TLS_CERT_FILE"),
        ("small", ["extraEnv[0].name=PORT"], "extraEnv: PORT"),
        ("small", ["config.A=1", "extraEnv[0].name=A"], "extraEnv: A"),
        ("small", ["extraEnv[0].name=A", "extraEnv[1].name=A"], "extraEnv: A"),
        ("small", [r"podLabels.app\.kubernetes\.io/name=x"], "podLabels"),
        ("small", [r"podLabels.app\.kubernetes\.io/component=x"], "podLabels"),
        ("small", [r"service.labels.app\.kubernetes\.io/instance=x"], "service.labels"),
        ("small", [r"metrics.serviceMonitor.labels.helm\.sh/chart=x"], "metrics.serviceMonitor.labels"),
        ("small", ["extraContainers[0].name=codeq"], "extraContainers: codeq"),
        ("small", ["extraInitContainers[0].name=codeq"], "extraInitContainers: codeq"),
        ("small", ["extraContainers[0].name=a", "extraInitContainers[0].name=a"], "extraInitContainers: a"),
        ("small", ["extraVolumes[0].name=tmp"], "extraVolumes: tmp"),
        ("small", ["extraVolumes[0].name=data"], "extraVolumes: data"),
        ("small", ["extraVolumes[0].name=backups"], "extraVolumes: backups"),
        ("small", ["extraVolumeMounts[0].name=a", "extraVolumeMounts[0].mountPath=/tmp"], "extraVolumeMounts: /tmp"),
    ],
)
def test_values_that_contradict_each_other_or_are_unknown_are_rejected_by_name(
    size: str, settings: list[str], error: str
) -> None:
    done = chart.template(*arguments_of(size, *settings))

    assert done.returncode != 0
    assert error in done.stderr


@pytest.mark.parametrize(
    ("release", "settings"),
    [("123", []), ("1codeq", []), ("codeq", ["fullnameOverride=1a"]), ("123", ["fullnameOverride=9-codeq"])],
)
def test_a_release_whose_services_could_have_no_such_name_is_refused(release: str, settings: list[str]) -> None:
    """The name of a Service begins with a letter, although that of a release may begin with a digit."""
    command = ("template", release, str(chart.CHART), *chart.KUBERNETES)
    done = chart.helm(*command, *arguments_of("small", *settings))
    assert done.returncode != 0
    assert "fullnameOverride" in done.stderr
    named = chart.helm(*command, *arguments_of("small", "fullnameOverride=codeq-123"))
    assert named.returncode == 0, named.stderr


def paths(values: Manifest, parent: str = "") -> Iterator[str]:
    """Yields the paths of all values."""
    for key, value in values.items():
        yield f"{parent}{key}"
        if isinstance(value, dict):
            yield from paths(value, f"{parent}{key}.")


VALUES: Manifest = yaml.safe_load((chart.CHART / "values.yaml").read_text())


@pytest.mark.parametrize("group", sorted(VALUES))
def test_a_value_set_to_null_is_refused_by_name_or_leaves_a_valid_manifest(group: str) -> None:
    """Null removes a default of the chart, of which operators make use: `podSecurityContext.runAsUser=null`."""
    options = [*OPTIONS["everything"], "gateway.autoscaling.enabled=true"]
    unneeded = "podSecurityContext.seccompProfile.type"  # is Kubernetes' to require
    for path in set(paths({group: VALUES[group]})) - {unneeded}:
        given = [each for each in options if not each.startswith((f"{path}.", f"{path}=", f"{path}["))]
        done = chart.template(*arguments_of("small", *given), "--set-json", f"{path}=null")
        if done.returncode:
            refused = re.search(r"specifications of the schema|execution error at .*" + path, done.stderr)
            assert refused, f"{path}: {done.stderr}"
            assert path.rpartition(".")[2] in done.stderr
        else:
            manifests = [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]
            assert list(schema_problems(manifests)) == [], path


@pytest.mark.parametrize("path", ["persistence", "gateway", "probes.liveness", "tls.certManager", "auth.producer"])
def test_a_group_of_values_set_to_null_is_refused_by_name(path: str) -> None:
    done = chart.template("--set-json", f"{path}=null")

    assert "specifications of the schema" in done.stderr
    assert path.rpartition(".")[2] in done.stderr


@pytest.mark.parametrize("size", SIZES)
def test_each_probe_asks_for_its_meaning(size: str) -> None:
    for kind, _, spec in pods(rendered(*arguments_of(size, *OPTIONS["gateways"]))):
        if kind in {"StatefulSet", "Deployment"}:
            [container] = spec["containers"]
            paths = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")]
            assert paths == ["/startupz" if kind == "StatefulSet" else "/healthz", "/healthz", "/readyz"]


def spoil(manifests: list[Manifest], kind: str, path: str, value: object) -> None:
    """Changes a part of the first manifest of a kind; the value None removes it."""
    part: Any = of_kind(manifests, kind)[0]
    *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in way:
        part = part[step]
    if value is None:
        del part[last]
    else:
        part[last] = value


CONTAINER = "spec.template.spec.containers.0"
FAULTS = [
    ("StatefulSet", f"{CONTAINER}.image", "codeq:latest", "no fixed tag"),
    ("StatefulSet", f"{CONTAINER}.securityContext.readOnlyRootFilesystem", False, "may write to its root"),
    ("StatefulSet", f"{CONTAINER}.securityContext.capabilities", {"drop": []}, "has capabilities"),
    ("Deployment", f"{CONTAINER}.securityContext.allowPrivilegeEscalation", None, "may gain privileges"),
    ("Deployment", f"{CONTAINER}.resources.limits", {}, "no bound of memory"),
    ("Deployment", f"{CONTAINER}.readinessProbe", None, "no readinessProbe"),
    ("Deployment", f"{CONTAINER}.livenessProbe.httpGet.port", "web", "asks at an unknown port"),
    ("StatefulSet", f"{CONTAINER}.volumeMounts.0.name", "date", "no volume date"),
    ("StatefulSet", f"{CONTAINER}.env.0", {"name": "LOG_LEVEL", "value": "info"}, "LOG_LEVEL is there twice"),
    ("StatefulSet", f"{CONTAINER}.env.0", {"name": "MY_TOKEN", "value": "1"}, "MY_TOKEN is in plain sight"),
    ("StatefulSet", "spec.template.spec.securityContext.runAsNonRoot", False, "may run as root"),
    ("StatefulSet", "spec.template.spec.hostNetwork", True, "hostNetwork is set"),
    ("StatefulSet", "spec.template.spec.affinity", None, "all pods may be on one node"),
    ("StatefulSet", "spec.template.spec.volumes.0", {"name": "auth", "hostPath": {"path": "/"}}, "a path of the host"),
    ("StatefulSet", "spec.template.metadata.labels", {"app.kubernetes.io/component": "x"}, "does not match its pods"),
    ("StatefulSet", "spec.serviceName", "codeq", "is not a headless Service"),
    ("Service", "spec.ports.0.targetPort", "web", "pods have no port web"),
    ("ServiceAccount", "metadata.name", "other", "no ServiceAccount codeq"),
    ("HorizontalPodAutoscaler", "spec.scaleTargetRef.name", "other", "scales nothing"),
    ("PodDisruptionBudget", "spec.selector.matchLabels", {"a": "b"}, "selects no pod"),
    ("ConfigMap", "metadata.name", "other", "no ConfigMap codeq-members"),
    ("Ingress", "spec.rules.0.http.paths.0.backend.service.name", "other", "no Service for"),
]


@pytest.mark.parametrize(("kind", "path", "value", "problem"), FAULTS)
def test_rules_find_a_planted_fault(kind: str, path: str, value: object, problem: str) -> None:
    manifests = rendered(*arguments_of("medium", *OPTIONS["everything"]))
    spoil(manifests, kind, path, value)

    assert any(problem in found for found in problems(manifests))


def test_schemas_find_unknown_keys_and_wrong_types() -> None:
    for path, value in [("spec.replica", 3), ("spec.replicas", "three")]:
        manifests = rendered(*arguments_of("medium"))
        spoil(manifests, "StatefulSet", path, value)
        assert len(list(schema_problems(manifests))) == len(KUBERNETES_VERSIONS)


@pytest.mark.parametrize("size", sorted(CLUSTERS))
def test_runbook_for_a_lost_member_names_the_claim_and_the_pod_of_the_chart(size: str) -> None:
    claim, pod = chart.replaced_member()
    members = find(rendered(*arguments_of(size)), "StatefulSet", "codeq")
    assert pod in [f"{members['metadata']['name']}-{number}" for number in range(members["spec"]["replicas"])]
    data, *_ = members["spec"]["volumeClaimTemplates"]
    assert claim == f"{data['metadata']['name']}-{pod}"


def test_pod_of_the_runbook_has_the_volumes_and_the_user_of_the_single_node() -> None:
    page = (chart.ROOT / "docs/runbooks/back-up-and-restore.md").read_text().partition("### In a pod")[2]
    pod = yaml.safe_load(page.partition("<<'END'\n")[2].partition("\nEND\n")[0])["spec"]
    settings = ["persistence.backups.enabled=true", "persistence.artifacts.enabled=true"]
    manifests = rendered(*arguments_of("small", *settings))
    server = find(manifests, "StatefulSet", "codeq")["spec"]
    template = server["template"]["spec"]
    claims = {
        each["metadata"]["name"]: f"{each['metadata']['name']}-codeq-0" for each in server["volumeClaimTemplates"]
    }
    assert {each["name"]: each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"]} == claims
    [container] = template["containers"]
    assert all(mount in container["volumeMounts"] for mount in pod["containers"][0]["volumeMounts"])
    assert pod["securityContext"].items() <= template["securityContext"].items()
    env = environment(manifests, container, "codeq-0")
    store, artifacts = json.loads(env["PERSISTENCE_CONFIG"])["path"], env["LOCAL_ARTIFACTS_DIR"]
    assert f'store restore "{env["BACKUP_DIR"]}/$NAME" {store} --artifacts {artifacts}\n' in page
