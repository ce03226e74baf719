"""Images with buildah, in a folder of their own, without a daemon or kernel namespaces."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host_tools import run

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        root: Its file system, on the host.
        settings: How containers of it run: user, entry point, ports, volumes.
    """

    root: Path
    settings: Mapping[str, Any]


class Images:
    """Images that are stored in one folder.

    Attributes:
        directory: The folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._storage = (
            *("buildah", "--storage-driver", "vfs"),
            *("--root", str(directory / "storage"), "--runroot", str(directory / "run")),
        )
        self._env = dict(os.environ) | {"BUILDAH_ISOLATION": "chroot"}

    def buildah(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Runs a buildah command and returns its stdout without the trailing newline."""
        return run(*self._storage, *map(str, arguments), cwd=cwd, env=self._env).strip()

    def import_base(self, tar: Path, name: str) -> None:
        """Makes an image from a root file system; it trusts the same certificate authorities as this machine."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, tar, "/")
        if CERTIFICATES.exists():
            self.buildah("copy", "--quiet", container, CERTIFICATES, CERTIFICATES)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def build(self, checkout: Path, name: str, arguments: Mapping[str, str], contexts: Mapping[str, Path]) -> None:
        """Builds the image of the Dockerfile in a checkout.

        Args:
            checkout: Folder of the Dockerfile.
            name: Name of the image.
            arguments: Arguments of the build, such as its bases.
            contexts: Folders that stand for stages of the Dockerfile.
        """
        given = [part for item in arguments.items() for part in ("--build-arg", "=".join(item))]
        given += [part for stage, folder in contexts.items() for part in ("--build-context", f"{stage}={folder}")]
        command = ["bud", "--isolation", "chroot", "--format", "docker", "--pull-never", *given, "--tag", name, "."]
        self.buildah(*command, cwd=checkout)

    def image(self, name: str) -> Image:
        """Returns an image; its file system is there until the images are closed."""
        inspected = json.loads(self.buildah("inspect", "--type", "image", name))
        root = self.buildah("mount", self.buildah("from", "--pull-never", name))
        return Image(Path(root), inspected["Docker"]["config"])

    def close(self) -> None:
        """Removes every container and image; the folder can then be removed."""
        try:
            self.buildah("rm", "--all")
        finally:
            self.buildah("rmi", "--all", "--force")


@contextmanager
def shared(directory: Path, make: Callable[[Images], Image]) -> Iterator[Image]:
    """Yields an image that several processes use: the first one makes it, the last one removes it.

    Args:
        directory: Where it is kept; the same for all processes.
        make: Makes it.
    """
    images, made = Images(directory), directory / "image.json"
    users = directory.with_name(f"{directory.name}-users")
    user = users / str(os.getpid())
    try:
        with _alone(directory):
            users.mkdir(exist_ok=True)
            user.touch()
            directory.mkdir(exist_ok=True)
            if not made.exists():
                made.write_text(json.dumps(asdict(make(images)), default=str))
            image = json.loads(made.read_text())
        yield Image(Path(image["root"]), image["settings"])
    finally:
        with _alone(directory):
            user.unlink()
            if not list(users.iterdir()):
                try:
                    images.close()
                finally:
                    shutil.rmtree(directory)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keeps the other processes out."""
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
