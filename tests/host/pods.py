"""Pods as a kubelet runs them: from a manifest, in the file system of the image, with volumes, probes and restarts.

A pod has a network namespace and an address of its own, and a new address whenever it is made anew. Left out: limits of
CPU and memory, network policies, and pods of several containers.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confined
from confined import Confined, Mount
from host_images import Image
from namespaces import Namespaces
from rendered_chart import Manifest, environment, find, secret_of

LOOK_SECONDS = 0.05
RESTART_SECONDS = 0.5
"""Pause before a container is started again; the kubelet's grows from 10 s."""
LOG_TAIL_CHARS = 4000
WITHOUT_CHECK = ssl._create_unverified_context()  # as the kubelet


@dataclass(frozen=True)
class Place:
    """Where pods run.

    Attributes:
        folder: For volumes and logs.
        image: File system and settings of every container.
        spaces: Their network.
        domain: Domain of the namespace, such as "queues.svc.cluster.local".
    """

    folder: Path
    image: Image
    spaces: Namespaces
    domain: str

    def claim(self, name: str) -> Path:
        """Returns the folder of a volume claim."""
        return self.folder / "claims" / name


class Probe:
    """When a probe is due, and how often it has failed in a row."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._due = time.monotonic() + settings.get("initialDelaySeconds", 0)
        self._failures = 0
        self.succeeded = False

    def look(self, pod: Pod) -> None:
        """Probes if it is time to."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._settings.get("periodSeconds", 10)
        if pod.answers(self._settings["httpGet"], self._settings.get("timeoutSeconds", 1)):
            self.succeeded, self._failures = True, 0
        else:
            self._failures += 1

    @property
    def failed(self) -> bool:
        """Whether it has failed too often in a row."""
        return bool(self._failures >= self._settings.get("failureThreshold", 3))


class Pod:
    """One pod, from its start to its deletion.

    Attributes:
        name: Its name.
        spec: Its specification.
        labels: Its labels.
        address: Its address; "" after its deletion.
        is_ready: Whether its last readiness probe succeeded; a pod without one is ready while it runs.
        ready_since: When it became ready.
        restarts: How often its container was started again.
        exit_code: Exit code of the container's last run; None: it has not ended.
    """

    def __init__(
        self, place: Place, manifests: list[Manifest], name: str, template: Manifest, claims: list[str]
    ) -> None:
        """Prepares a pod.

        Args:
            place: Where it runs.
            manifests: What its variables and volumes refer to.
            name: Its name.
            template: Its metadata and specification.
            claims: Names of the claims that it has for itself.
        """
        self.name, self.template = name, template
        self.spec: Manifest = template["spec"]
        self.labels: Mapping[str, str] = template["metadata"]["labels"]
        self.address = ""
        self.is_ready = self.is_going = False
        self.ready_since = 0.0
        self.restarts = 0
        self.exit_code: int | None = None
        self._place, self._manifests, self._claims = place, manifests, claims
        [self._container] = self.spec["containers"]
        self._folder = place.folder / "pods" / name
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._live, daemon=True)

    @property
    def log(self) -> str:
        """End of its output, over all runs of pods of this name."""
        path = self._log_path
        return path.read_text(errors="replace")[-LOG_TAIL_CHARS:] if path.exists() else ""

    def start(self) -> None:
        """Makes its network and volumes, and starts it."""
        self.address = self._place.spaces.add(self.name)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._confined = self._make()
        self._thread.start()

    def delete(self) -> None:
        """Ends it as a deletion does: it gets no more calls, runs its preStop hook, and has a grace period."""
        self.is_going, self.is_ready = True, False
        deadline = time.monotonic() + self.spec.get("terminationGracePeriodSeconds", 30)
        if self._process is not None and confined.is_alive(self._process.pid):
            hook = self._container.get("lifecycle", {}).get("preStop")
            if hook is not None:
                self.run(*hook["exec"]["command"])
            stopped = confined.stop(self._process.pid, max(0.0, deadline - time.monotonic()))
            assert stopped, f"{self.name} was killed after its grace period:\n{self.log}"
        self._end()

    def lose(self) -> None:
        """Ends it as the loss of its node does: at once, and the address answers no more."""
        self.is_going, self.is_ready = True, False
        self.crash()
        self._end()

    def crash(self) -> None:
        """Kills its container; unless the pod is going, it starts again."""
        if self._process is not None:
            confined.kill(self._process.pid)

    def signal_end(self) -> None:
        """Asks its container to end, as an operator would with kill."""
        assert self._process is not None
        os.kill(confined.init_of(self._process.pid), signal.SIGTERM)

    def run(self, *command: str) -> str:
        """Runs a command in its container and returns the output."""
        assert self._process is not None
        done = self._confined.run(confined.init_of(self._process.pid), *command)
        assert done.returncode == 0, (
            f"{command} in {self.name} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done.stdout

    def wait_ended(self, seconds: float) -> int:
        """Waits for the end of a pod that is not restarted and returns its exit code."""
        self._thread.join(seconds)
        assert self.exit_code is not None, f"{self.name} runs still:\n{self.log}"
        return self.exit_code

    def answers(self, request: Mapping[str, Any], seconds: float) -> bool:
        """Returns whether a probe of this request succeeds."""
        ports = {port["name"]: port["containerPort"] for port in self._container["ports"]}
        port = ports.get(request["port"], request["port"])
        url = f"{request.get('scheme', 'HTTP').lower()}://{self.address}:{port}{request['path']}"
        try:
            with urllib.request.urlopen(url, timeout=seconds, context=WITHOUT_CHECK) as reply:
                return bool(reply.status < 400)
        except (OSError, urllib.error.URLError):
            return False

    @property
    def _log_path(self) -> Path:
        return self._place.folder / f"{self.name}.log"

    def _end(self) -> None:
        if self._process is not None:
            self._thread.join()
        if self.address:
            self._place.spaces.remove(self.name)
            self.address = ""

    def _live(self) -> None:
        """Runs the container again and again, as the kubelet does."""
        while not self.is_going:
            self._process = self._confined.start(self._log_path)
            self._watch(self._process)
            self.is_ready = False
            self.exit_code = self._process.wait()
            if self.spec.get("restartPolicy") == "Never":
                return
            self.restarts += 1
            time.sleep(RESTART_SECONDS)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Probes a container until it has ended; ends it if a probe asks for it."""
        probes = {kind: Probe(self._container[key]) for kind, key in PROBES.items() if key in self._container}
        startup, liveness, readiness = (probes.get(kind) for kind in PROBES)
        while process.poll() is None:
            time.sleep(LOOK_SECONDS)
            if self.is_going:
                continue
            if startup is not None and not startup.succeeded:
                startup.look(self)
                if startup.failed:
                    confined.kill(process.pid)
                continue
            if liveness is not None:
                liveness.look(self)
                if liveness.failed:
                    confined.stop(process.pid, self.spec.get("terminationGracePeriodSeconds", 30))
            if readiness is not None:
                readiness.look(self)
            self._become(ready=readiness is None or (readiness.succeeded and not readiness.failed))

    def _become(self, *, ready: bool) -> None:
        if ready and not self.is_ready:
            self.ready_since = time.monotonic()
        self.is_ready = ready and not self.is_going

    def _make(self) -> Confined:
        settings = self._place.image.settings
        context = self.spec["securityContext"]
        variables = dict(each.split("=", 1) for each in settings["Env"]) | {"HOSTNAME": self.name}
        command = self._container.get("command") or settings["Entrypoint"]
        sources = self._volumes(context["fsGroup"])
        mounts = [self._mount(mount, sources) for mount in self._container.get("volumeMounts", [])]
        return Confined(
            root=str(self._place.image.root),
            command=[*command, *self._container.get("args", [])],
            env=variables | environment(self._manifests, self._container, self.name),
            user=(context["runAsUser"], context["runAsGroup"]),
            groups=[context["fsGroup"]],
            mounts=[*mounts, *self._names()],
            hostname=self.name,
            workdir=settings["WorkingDir"],
            network=self._place.spaces.space(self.name),
        )

    def _mount(self, mount: Manifest, sources: Mapping[str, Path]) -> Mount:
        assert "subPath" not in mount
        source = sources[mount["name"]]
        return Mount(str(source), mount["mountPath"], read_only=mount.get("readOnly", False))

    def _volumes(self, group: int) -> dict[str, Path]:
        """Returns the folders of its volumes."""
        sources = {name: self._place.claim(f"{name}-{self.name}") for name in self._claims}
        for folder in sources.values():
            if not folder.exists():
                folder.mkdir(parents=True)
        for volume in self.spec.get("volumes", []):
            folder = sources[volume["name"]] = self._folder / volume["name"]
            folder.mkdir()
            for file, text in self._files(volume).items():
                (folder / file).write_text(text)
                (folder / file).chmod(0o440)
                os.chown(folder / file, 0, group)
        for folder in sources.values():
            os.chown(folder, folder.stat().st_uid, group)
            folder.chmod(0o2775)
        return sources

    def _files(self, volume: Manifest) -> Mapping[str, str]:
        if "secret" in volume:
            return secret_of(self._manifests, volume["secret"]["secretName"])
        if "configMap" in volume:
            content: Mapping[str, str] = find(self._manifests, "ConfigMap", volume["configMap"]["name"])["data"]
            return content
        assert "emptyDir" in volume, volume
        return {}

    def _names(self) -> list[Mount]:
        """Returns its files for resolving names."""
        search = f"{self._place.domain} svc.cluster.local cluster.local"
        texts = {
            "hosts": f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.name}\n",
            "resolv.conf": f"nameserver {self._place.spaces.gateway}\nsearch {search}\noptions ndots:5\n",
        }
        for name, text in texts.items():
            (self._folder / name).write_text(text)
        return [Mount(str(self._folder / name), f"/etc/{name}") for name in texts]


PROBES = {"startup": "startupProbe", "liveness": "livenessProbe", "readiness": "readinessProbe"}
