"""Lets a real API server of Kubernetes check every combination of the chart's values, in dry runs.

The server is built from its Go module, which takes a quarter of an hour, and stays in the user's cache. Needs Go and
etcd. `make test-kubernetes` runs it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from chart_rules import CUSTOM_GROUPS
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from rendered_chart import NAMESPACE, Manifest, rendered
from test_chart import COMBINATIONS, OPTIONS, arguments_of

VERSION: Final = "1.36.3"
MODULE: Final = "k8s.io/kubernetes"
COMMAND: Final = f"{MODULE}/cmd/kube-apiserver"
READY_SECONDS_MAX: Final = 120.0
POLL_SECONDS: Final = 0.2
WITHOUT_CHECK: Final = ssl._create_unverified_context()


def server_program() -> Path:
    """Returns the API server's program, which is built if it is not cached."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codeq"
    program = cache / f"kube-apiserver-{VERSION}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"Building kube-apiserver {VERSION}, once", flush=True)
        with tempfile.TemporaryDirectory(prefix="kube-apiserver-", dir=cache) as folder:
            _build(Path(folder), Path(folder, "kube-apiserver"))
            Path(folder, "kube-apiserver").rename(program)
    return program


def _build(folder: Path, program: Path) -> None:
    """Builds in a module of its own: that of Kubernetes refers to neighbours in its own checkout."""

    def go(*arguments: str) -> str:
        return subprocess.run(["go", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout

    (folder / "go.mod").write_text("module built\n")
    downloaded = json.loads(go("mod", "download", "-json", f"{MODULE}@v{VERSION}"))
    staged = sorted(set(re.findall(r"(k8s\.io/[\w-]+) v0\.0\.0", Path(downloaded["GoMod"]).read_text())))
    published = f"v0.{VERSION.partition('.')[2]}"
    replaced = "".join(f"replace {name} => {name} {published}\n" for name in staged)
    (folder / "go.mod").write_text(f"module built\n\nrequire {MODULE} v{VERSION}\n\n{replaced}")
    (folder / "tools.go").write_text(f'//go:build tools\n\npackage built\n\nimport _ "{COMMAND}"\n')
    go("get", f"{COMMAND}@v{VERSION}")
    version = f"-X k8s.io/component-base/version.gitVersion=v{VERSION}"
    go("build", "-trimpath", "-ldflags", f"-s -w {version}", "-o", str(program), COMMAND)


def free_ports(count: int) -> list[int]:
    """Returns ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class ApiServer:
    """A running API server that does what its token asks."""

    def __init__(self, port: int, token: str) -> None:
        self._base, self._token = f"https://127.0.0.1:{port}", token
        self._kinds: dict[str, dict[str, str]] = {}

    def ask(self, method: str, path: str, body: Manifest | None = None) -> dict[str, Any]:
        """Returns the reply to a request.

        Raises:
            urllib.error.HTTPError: It was refused.
        """
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, context=WITHOUT_CHECK, timeout=30) as reply:
            text = reply.read()
        return dict(json.loads(text)) if text.startswith(b"{") else {}

    def problem(self, manifest: Manifest) -> str:
        """Returns why the server would not accept a manifest; empty: it would."""
        version = manifest["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if version not in self._kinds:
            resources = self.ask("GET", root)["resources"]
            self._kinds[version] = {each["kind"]: each["name"] for each in resources if "/" not in each["name"]}
        path = f"{root}/namespaces/{NAMESPACE}/{self._kinds[version][manifest['kind']]}"
        try:
            self.ask("POST", f"{path}?dryRun=All&fieldValidation=Strict", manifest)
        except urllib.error.HTTPError as error:
            return str(json.loads(error.read())["message"])
        return ""


@contextmanager
def api_server(program: Path, folder: Path) -> Iterator[ApiServer]:
    """Yields a new API server with an empty store."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    (folder / "key.pem").write_bytes(pem)
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    store, peer, port = free_ports(3)
    url = f"http://127.0.0.1:{store}"
    etcd = ["etcd", f"--data-dir={folder}/etcd", f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    etcd += [f"--listen-peer-urls=http://127.0.0.1:{peer}", "--unsafe-no-fsync"]
    server = [str(program), f"--etcd-servers={url}", f"--secure-port={port}", "--bind-address=127.0.0.1"]
    server += [f"--cert-dir={folder}/certificates", f"--token-auth-file={folder}/tokens.csv"]
    server += ["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"]
    server += ["--service-account-issuer=https://localhost", f"--service-account-key-file={folder}/key.pem"]
    server += [f"--service-account-signing-key-file={folder}/key.pem", "--service-cluster-ip-range=10.0.0.0/24"]
    with (folder / "log").open("wb") as log:
        started = [subprocess.Popen(command, stdout=log, stderr=log) for command in (etcd, server)]
    try:
        api = ApiServer(port, token)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            try:
                api.ask("GET", "/readyz")
                break
            except OSError:
                if time.monotonic() > deadline or any(each.poll() is not None for each in started):
                    sys.exit(f"the API server does not start:\n{(folder / 'log').read_text()[-3000:]}")
                time.sleep(POLL_SECONDS)
        yield api
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def main() -> int:
    """Checks every combination; returns 1 if the server refuses a manifest, or misses a planted fault."""
    for tool in ("go", "etcd"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing; etcd is in Debian's package etcd-server")
    program = server_program()
    found, checked = set(), set()
    with tempfile.TemporaryDirectory() as folder, api_server(program, Path(folder)) as api:
        name = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        api.ask("POST", "/api/v1/namespaces", name)
        for size, option in COMBINATIONS:
            for manifest in rendered(*arguments_of(size, *OPTIONS[option])):
                text = json.dumps(manifest, sort_keys=True)
                if text not in checked and manifest["apiVersion"].partition("/")[0] not in CUSTOM_GROUPS:
                    checked.add(text)
                    if problem := api.problem(manifest):
                        found.add(f"{size}, {option}: {manifest['kind']} {manifest['metadata']['name']}: {problem}")
                    if manifest["kind"] == "StatefulSet":
                        manifest["spec"]["selector"]["matchLabels"]["planted"] = "fault"
                        if not api.problem(manifest):
                            found.add("a selector that does not match its pods is accepted")
    print(
        *sorted(found), f"{len(COMBINATIONS)} combinations, {len(checked)} manifests, {len(found)} problems", sep="\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
