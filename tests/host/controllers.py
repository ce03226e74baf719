"""Rendered manifests as Kubernetes carries them out: StatefulSets, Deployments, Services, hooks, and pods of tests.

A Service's name stands for the addresses of its pods, as if it were headless: clients choose among them by themselves.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cluster_names import NameServer
from host_images import Image
from namespaces import Namespaces
from pods import Place, Pod
from rendered_chart import NAMESPACE, Manifest, of_kind

DOMAIN = f"{NAMESPACE}.svc.cluster.local"
POLL_SECONDS = 0.1
HOOK_SECONDS_MAX = 300.0
READY_SECONDS_MAX = 120.0
HOOK = "helm.sh/hook"


class Kubernetes:
    """One namespace of a Kubernetes cluster.

    Attributes:
        pods: Its pods by name.
    """

    def __init__(self, folder: Path, image: Image) -> None:
        self.pods: dict[str, Pod] = {}
        self._manifests: list[Manifest] = []
        self._made = 0
        self._spaces = Namespaces()
        self._place = Place(folder, image, self._spaces, DOMAIN)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._spaces)
            stack.enter_context(NameServer(self._spaces.gateway, self.addresses))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack as stack:
            for pod in self.pods.values():
                stack.callback(pod.lose)
                stack.callback(print, f"--- {pod.name}, restarted {pod.restarts} times\n{pod.log}")

    def addresses(self, name: str) -> Sequence[str] | None:
        """Returns the addresses of a name; None: there is no such name."""
        if not name.endswith(f".{DOMAIN}"):
            return None
        pod, _, service = name.removesuffix(f".{DOMAIN}").rpartition(".")
        found = [each for each in of_kind(self._manifests, "Service") if each["metadata"]["name"] == service]
        if not found:
            return None
        [spec] = [each["spec"] for each in found]
        early = spec.get("publishNotReadyAddresses", False)
        chosen = [
            each
            for each in list(self.pods.values())
            if each.address and (early or each.is_ready) and spec["selector"].items() <= each.labels.items()
        ]
        if pod:
            return [each.address for each in chosen if each.name == pod] or None
        return random.sample([each.address for each in chosen], len(chosen))

    def apply(self, manifests: list[Manifest]) -> None:
        """Installs or upgrades, and returns when every pod is as the manifests say and available.

        Raises:
            AssertionError: A hook failed, or a pod was not ready in time.
        """
        if self._manifests:
            for job in of_kind(manifests, "Job"):
                if job["metadata"].get("annotations", {}).get(HOOK) == "pre-upgrade":
                    self.run_to_end(f"{job['metadata']['name']}-hook", job["spec"]["template"])
        self._manifests = manifests
        for each in of_kind(manifests, "StatefulSet"):
            self._scale(each)
        for each in of_kind(manifests, "Deployment"):
            self._deploy(each)
        for each in of_kind(manifests, "StatefulSet"):
            self._roll(each)

    def replace(self, name: str, *, lost: Sequence[str] = ()) -> None:
        """Makes a pod of the StatefulSet anew after its node was lost, with its volumes but those of lost claims."""
        old = self.pods.pop(name)
        old.lose()
        for claim in lost:
            shutil.rmtree(self._place.claim(claim))
        [members] = of_kind(self._manifests, "StatefulSet")
        self._start_member(members, name)

    def run_to_end(self, name: str, template: Manifest) -> str:
        """Runs a pod that ends by itself and returns its output.

        Raises:
            AssertionError: It failed; the message has its output.
        """
        pod = self.start_pod(name, template)
        code = pod.wait_ended(HOOK_SECONDS_MAX)
        pod.lose()
        del self.pods[name]
        assert code == 0, f"{name} ended with {code}:\n{pod.log}"
        return pod.log

    def start_pod(self, name: str, template: Manifest) -> Pod:
        """Starts a pod that no controller made."""
        return self._start(name, template, [])

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS_MAX) -> None:
        """Waits for a condition.

        Raises:
            AssertionError: It did not come true in time; the message ends with the logs.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {pod.name}\n{pod.log}" for pod in self.pods.values())
                raise AssertionError(f"not in time: {what}\n{logs}")
            time.sleep(POLL_SECONDS)

    def wait_ready(self, *names: str, seconds: float = READY_SECONDS_MAX) -> None:
        """Waits until these pods are ready; without names: all."""
        wanted = names or tuple(self.pods)
        self.wait(lambda: all(self.pods[name].is_ready for name in wanted), f"{', '.join(wanted)} ready", seconds)

    def _start(self, name: str, template: Manifest, claims: list[str]) -> Pod:
        pod = self.pods[name] = Pod(self._place, self._manifests, name, template, claims)
        pod.start()
        return pod

    def _start_member(self, members: Manifest, name: str) -> None:
        claims = [each["metadata"]["name"] for each in members["spec"]["volumeClaimTemplates"]]
        self._start(name, members["spec"]["template"], claims)

    def _names(self, members: Manifest) -> list[str]:
        return [f"{members['metadata']['name']}-{number}" for number in range(members["spec"]["replicas"])]

    def _scale(self, members: Manifest) -> None:
        """Makes and deletes pods at once, as the policy Parallel says."""
        assert members["spec"]["podManagementPolicy"] == "Parallel"
        wanted = self._names(members)
        stem = members["metadata"]["name"]
        surplus = [name for name in self.pods if name.rpartition("-")[0] == stem and name not in wanted]
        with ThreadPoolExecutor(max_workers=max(1, len(surplus))) as pool:
            list(pool.map(lambda name: self.pods[name].delete(), surplus))
        for name in surplus:
            del self.pods[name]
        for name in wanted:
            if name not in self.pods:
                self._start_member(members, name)

    def _roll(self, members: Manifest) -> None:
        """Replaces pods of another template, the last first, each when the former has become available."""
        settle = members["spec"].get("minReadySeconds", 0)
        for name in reversed(self._names(members)):
            if self.pods[name].template != members["spec"]["template"]:
                self._all_ready(members)
                self.pods[name].delete()
                self._start_member(members, name)
                self._available(name, settle)
        self._all_ready(members)

    def _all_ready(self, members: Manifest) -> None:
        self.wait_ready(*self._names(members))

    def _available(self, name: str, settle: float) -> None:
        pod = self.pods[name]
        self.wait(lambda: pod.is_ready and time.monotonic() >= pod.ready_since + settle, f"{name} available")

    def _deploy(self, deployment: Manifest) -> None:
        """Makes new pods one by one, each before an old one goes."""
        name, template = deployment["metadata"]["name"], deployment["spec"]["template"]
        scalers = [each["spec"] for each in of_kind(self._manifests, "HorizontalPodAutoscaler")]
        least = next((each["minReplicas"] for each in scalers if each["scaleTargetRef"]["name"] == name), None)
        count = deployment["spec"].get("replicas", least)
        before = [each for each in self.pods if each.startswith(f"{name}-x")]
        old = [each for each in before if self.pods[each].template != template]
        for _ in range(count - len(before) + len(old)):
            self._made += 1
            new = f"{name}-x{self._made}"
            self._start(new, template, [])
            if old:
                self.wait_ready(new)
                self.pods.pop(old.pop()).delete()
        for each in old:
            self.pods.pop(each).delete()
