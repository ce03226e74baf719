"""Images and containers with buildah, in a folder of their own, without a daemon or kernel namespaces.

Containers share the host's network, so servers in them get free ports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil
from host_tools import OUTPUT_TAIL_CHARS, run

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05
STORE_PATH = "/var/lib/codeq/pebble"
PROGRAM = "/app/venv/bin/codeq"


class Images:
    """Images and containers that are stored in one folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._storage = (
            *("buildah", "--storage-driver", "vfs"),
            *("--root", str(directory / "storage"), "--runroot", str(directory / "run")),
        )
        self._env = dict(os.environ) | {"BUILDAH_ISOLATION": "chroot"}

    def command(self, *arguments: str | Path) -> list[str]:
        """Returns the command line of a buildah command."""
        return [*self._storage, *map(str, arguments)]

    def buildah(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Runs a buildah command and returns its stdout without the trailing newline."""
        return run(*self.command(*arguments), cwd=cwd, env=self._env).strip()

    def import_base(self, tar: Path, name: str) -> None:
        """Makes an image from a root file system; it trusts the same certificate authorities as this machine."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, tar, "/")
        if CERTIFICATES.exists():
            self.buildah("copy", "--quiet", container, CERTIFICATES, CERTIFICATES)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def build(self, checkout: Path, base: str, name: str) -> None:
        """Builds the image of the Dockerfile in a checkout, on a base without cargo: for single nodes only."""
        self.buildah(
            *("bud", "--isolation", "chroot", "--format", "docker", "--pull-never"),
            *("--build-arg", f"BASE={base}", "--build-arg", f"RUST={base}", "--tag", name, "."),
            cwd=checkout,
        )

    def settings(self, name: str) -> dict[str, Any]:
        """Returns how containers of an image run: user, entry point, ports, volumes."""
        inspected = json.loads(self.buildah("inspect", "--type", "image", name))
        settings = inspected["Docker"]["config"]
        assert isinstance(settings, dict)
        return settings

    def close(self) -> None:
        """Removes every container and image; the folder can then be removed."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")


class Container:
    """A container of the image with a volume for the store. It can be stopped, killed and started again."""

    def __init__(self, images: Images, image: str, environment: Mapping[str, str], volume: Path) -> None:
        self._images = images
        self._name = images.buildah("from", "--pull-never", image)
        self._entry_point = images.settings(image)["Entrypoint"]
        self._options = ["--isolation", "chroot", "--volume", f"{volume}:{STORE_PATH}"]
        for variable, value in environment.items():
            self._options += ["--env", f"{variable}={value}"]
        self.port = environment["PORT"]
        self._log = volume.with_suffix(".log")
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """The end of the container's output."""
        return self._log.read_text(errors="replace")[-OUTPUT_TAIL_CHARS:]

    def start(self) -> None:
        """Starts the image's entry point and returns when the server is ready."""
        assert self._process is None
        command = self._images.command("run", *self._options, self._name, "--", *self._entry_point)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._is_ready():
            assert self._process.poll() is None, f"the container ended with {self._process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"the container was not ready in time:\n{self.log}"
            time.sleep(POLL_SECONDS)

    def server(self) -> psutil.Process:
        """Returns the server's process as seen from the host."""
        assert self._process is not None
        below = psutil.Process(self._process.pid).children(recursive=True)
        (server,) = [process for process in below if PROGRAM in process.cmdline()]
        return server

    def end(self, number: signal.Signals) -> int:
        """Sends the server a signal and returns the exit code of the container."""
        assert self._process is not None
        self.server().send_signal(number)
        code = self._process.wait(STOP_SECONDS_MAX)
        self._process = None
        return code

    def run(self, *command: str) -> str:
        """Runs a command in the container, beside the server, and returns its stdout."""
        return self._images.buildah("run", *self._options, self._name, "--", *command)

    def close(self) -> None:
        """Kills the server if it is running, and removes the container."""
        if self._process is not None:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                process.kill()
            self._process.kill()
            self._process.wait()
        self._images.buildah("rm", self._name)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as reply:
                return bool(reply.status == 200)
        except (URLError, OSError):
            return False
