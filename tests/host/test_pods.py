"""The chart's pods, started from what helm renders: founding, rolling update, lost nodes and volumes, 3 to 5 to 3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controllers import Kubernetes
from host_images import Image
from host_tools import need, need_root
from pods import Pod
from rendered_chart import Manifest, find, rendered, replaced_member

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

HERE = Path(__file__).resolve().parent
VALUES = HERE.parents[1] / "helm" / "codeq" / "values-medium.yaml"
QUICK = ["minReadySeconds=2", "preStopSeconds=1", "auth.existingSecret=codeq-auth", "gateway.autoscaling.enabled=false"]
MEMBERS = ["codeq-0", "codeq-1", "codeq-2"]
LOAD_SECONDS_MAX = 180.0


def manifests(*settings: str) -> list[Manifest]:
    """Returns the manifests of a cluster of three, with further values."""
    return rendered("--values", str(VALUES), *(part for each in (*QUICK, *settings) for part in ("--set", each)))


@pytest.fixture
def kubernetes(image: Image, tmp_path: Path) -> Iterator[Kubernetes]:
    need_root()
    need("ip")
    with Kubernetes(tmp_path, image) as made:
        yield made


@pytest.fixture
def cluster(kubernetes: Kubernetes) -> Kubernetes:
    """The cluster with its three members and gateways ready."""
    kubernetes.apply(manifests())
    kubernetes.wait_ready()
    return kubernetes


def status(kubernetes: Kubernetes) -> dict[str, Any]:
    """Returns the group as its leader sees it."""
    for name in MEMBERS:
        found: dict[str, Any] = json.loads(codeq(kubernetes.pods[name], "cluster", "status", "-o", "json"))
        group = found["groups"][0]
        if group.get("isLeader"):
            return dict(group)
    raise AssertionError("no member leads")


def codeq(pod: Pod, *arguments: str) -> str:
    """Runs the command line in a pod, as an operator."""
    return pod.run("env", "CODEQ_TOKEN=p-secret", "HOME=/tmp", "codeq", *arguments)


def voters(kubernetes: Kubernetes) -> set[str]:
    """Returns the names of the members that vote."""
    return {member["id"] for member in status(kubernetes)["members"] if member.get("voter")}


class Load:
    """Tasks that are created and worked on in a pod."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        """Starts it, and waits for its first task."""
        pod = find(manifests(), "Pod", "codeq-first-task")
        spec = json.loads(json.dumps(pod["spec"]))
        [container] = spec["containers"]
        container["command"] = ["python3", "-c", (HERE / "pod_load.py").read_text()]
        self._kubernetes = kubernetes
        self._pod = kubernetes.start_pod("load", {"metadata": pod["metadata"], "spec": spec})
        kubernetes.wait(lambda: "the first task is created" in self._pod.log, "the load has begun", LOAD_SECONDS_MAX)

    def end(self) -> None:
        """Ends it and checks that no call failed and no task was lost."""
        self._pod.signal_end()
        assert self._pod.wait_ended(LOAD_SECONDS_MAX) == 0, self._pod.log
        report = json.loads(self._pod.log.splitlines()[-1])
        print(report)
        assert report["created"] >= 100
        assert report["failures"] == []
        assert report["lost"] == []


def test_three_pods_of_one_template_found_a_cluster_and_run_the_first_task(cluster: Kubernetes) -> None:
    assert voters(cluster) == set(MEMBERS)
    first_task = find(manifests(), "Pod", "codeq-first-task")
    assert "Hello, world!" in cluster.run_to_end("first-task", first_task)


def test_rolling_update_under_load_fails_no_call_and_loses_no_task(cluster: Kubernetes) -> None:
    load = Load(cluster)
    before = {name: cluster.pods[name] for name in MEMBERS}
    cluster.apply(manifests("podAnnotations.version=next", "gateway.podAnnotations.version=next"))
    load.end()
    for name in MEMBERS:
        assert cluster.pods[name] is not before[name]
        assert cluster.pods[name].restarts == 0
    assert voters(cluster) == set(MEMBERS)


def test_lost_node_comes_back_with_its_volume_at_another_address(cluster: Kubernetes) -> None:
    load = Load(cluster)
    address = cluster.pods["codeq-0"].address
    cluster.replace("codeq-0")
    cluster.wait_ready("codeq-0")
    assert cluster.pods["codeq-0"].address != address
    load.end()
    assert voters(cluster) == set(MEMBERS)


def test_lost_volume_is_filled_again_by_the_others(cluster: Kubernetes) -> None:
    """As after both commands of the runbook: claim and pod are deleted, and the new pod has an empty volume."""
    load = Load(cluster)
    claim, pod = replaced_member()
    cluster.replace(pod, lost=[claim])
    cluster.wait_ready(pod)
    load.end()
    assert voters(cluster) == set(MEMBERS)


def test_cluster_grows_to_five_and_shrinks_to_three_without_a_restart(cluster: Kubernetes) -> None:
    load = Load(cluster)
    before = {name: cluster.pods[name] for name in MEMBERS}
    cluster.apply(manifests("replicaCount=5"))
    assert voters(cluster) == {*MEMBERS, "codeq-3", "codeq-4"}
    for name in ("codeq-4", "codeq-3"):
        codeq(cluster.pods["codeq-0"], "cluster", "remove", name)
    cluster.apply(manifests("upgradeCheck.enabled=false"))
    load.end()
    assert voters(cluster) == set(MEMBERS)
    assert {name: cluster.pods[name] for name in MEMBERS} == before
    assert [cluster.pods[name].restarts for name in MEMBERS] == [0, 0, 0]
