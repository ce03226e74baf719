"""What a bundle is made for and of, and how it is written."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codeq_cli import new_files
from codeq_cli.failures import ExitCode, Failure, usage_failure

IMAGE: Final = "ghcr.io/osvaldoandrade/codeq-service"
"""Repository of the published image, as the layouts name it."""

LIST: Final = ".codeq-install"
"""File in the folder of a bundle that lists the files of the bundle, each in a line."""

LIST_BYTES_MAX: Final = 65536
"""Largest list of a bundle's files that is read, in bytes."""

_LIST_HEAD: Final = "# Files that `codeq install` has written here; with --force it replaces or removes them."


class Target(enum.StrEnum):
    """Where a bundle runs."""

    DOCKER = "docker"
    KUBERNETES = "kubernetes"


class Size(enum.StrEnum):
    """How large a bundle is."""

    DEV = "dev"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a bundle is made for.

    Attributes:
        size: Size.
        release: Name of the Compose project, or of the Helm release.
        namespace: Kubernetes namespace.
        folder: Folder of the bundle.
        repository: Repository of the image.
        tag: Tag of the image; None: none is given.
        digest: Digest of the image, as in "sha256:…"; None: none is given.
        domain: Name that clients use; empty: none.
        tls: Folder with tls.crt and tls.key; None: none.
        tenant: Tenant of the tokens.
        webhook_secret: Secret that signs callbacks.
    """

    size: Size
    release: str
    namespace: str
    folder: Path
    repository: str
    tag: str | None
    digest: str | None
    domain: str
    tls: Path | None
    tenant: str
    webhook_secret: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of a bundle.

    Attributes:
        content: Its content.
        private: Whether it holds secrets, so that only its owner may read it.
    """

    content: bytes = field(repr=False)
    private: bool = False


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files, and how to start what they describe.

    Attributes:
        files: Files by their path in the folder of the bundle.
        commands: Commands that start it.
        tools: Program of each tool that the commands need, and how to get it.
        missing: What has to be filled in first; empty: nothing.
        notes: What the operator should know.
    """

    files: Mapping[str, File]
    commands: Sequence[Sequence[str]]
    tools: Mapping[str, str]
    missing: str = ""
    notes: Sequence[str] = ()

    def write(self, folder: Path, *, force: bool) -> None:
        """Writes the files, and removes those of an earlier bundle that this one does not have.

        Args:
            folder: Where.
            force: Whether the files of an earlier bundle are replaced; no other file ever is.

        Raises:
            Failure: The folder has other files, or an earlier bundle without `force`; or it cannot be written.
        """
        earlier = _earlier(folder, force=force)
        for name in sorted(earlier | self.files.keys()):
            _check(folder, name, is_ours=name in earlier)
        # First the list of all, so that whatever is left of an interrupted call can be replaced.
        _write_list(folder, earlier | self.files.keys())
        for name, file in self.files.items():
            new_files.write(folder / name, file.content, private=file.private, force=name in earlier)
        if stale := earlier - self.files.keys():
            _remove(folder, stale)
            _write_list(folder, self.files.keys())


def _earlier(folder: Path, *, force: bool) -> frozenset[str]:
    """Returns the names of the files of the bundle that is in a folder; empty: the folder is empty or missing.

    Raises:
        Failure: The folder has other files, or a bundle without `force`; or it cannot be read.
    """
    path = folder / LIST
    try:
        if not any(folder.iterdir()):
            return frozenset()
        new_files.check(path, force=True)
        with path.open("rb") as file:
            head, *names = file.read(LIST_BYTES_MAX).decode().splitlines()
    except FileNotFoundError:
        if not folder.is_dir():
            return frozenset()
        text = f"{folder} has other files, and no earlier bundle; name an empty or missing folder"
        raise Failure(text, "EXISTS", ExitCode.USAGE) from None
    except OSError as error:
        raise usage_failure(f"--output-dir: {folder}: {error.strerror}") from None
    except ValueError:
        head, names = "", []
    if head != _LIST_HEAD or not all(map(_is_inside, names)):
        raise usage_failure(f"{path} does not list the files of a bundle; name an empty or missing folder")
    if not force:
        raise new_files.exists(folder)
    return frozenset(names)


def _is_inside(name: str) -> bool:
    """Returns whether a name can only be that of a file below a folder."""
    return name.isprintable() and all(part not in {"", ".", ".."} for part in name.split("/"))


def _check(folder: Path, name: str, *, is_ours: bool) -> None:
    """Checks that a file of a bundle may be written or removed.

    Raises:
        Failure: It is a file of somebody else, no regular file, or behind a link.
    """
    for above in [*Path(name).parents][:-1]:
        if (folder / above).is_symlink():
            raise usage_failure(f"{folder / above} is a symbolic link, and is not followed; name another place")
    try:
        new_files.check(folder / name, force=is_ours)
    except Failure as failure:
        if failure.reason != "EXISTS":
            raise
        text = f"{folder / name} is not of the earlier bundle; move it, or name another place"
        raise Failure(text, "EXISTS", ExitCode.USAGE) from None


def _write_list(folder: Path, names: Collection[str]) -> None:
    content = "\n".join([_LIST_HEAD, *sorted(names)]) + "\n"
    new_files.write(folder / LIST, content.encode(), private=False, force=True)


def _remove(folder: Path, names: Collection[str]) -> None:
    """Removes files, and the folders that are empty then.

    Raises:
        Failure: One cannot be removed.
    """
    for name in sorted(names):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise usage_failure(f"cannot remove {folder / name}: {error.strerror}") from None
        for above in [*Path(name).parents][:-1]:
            with contextlib.suppress(OSError):  # not empty, or removed already
                (folder / above).rmdir()


def layouts() -> Path:
    """Returns the folder that has `deploy` and `helm`: that of the wheel, or the checkout.

    Raises:
        Failure: This installation has neither.
    """
    checkout = Path(__file__).resolve().parents[3]
    for folder in (Path(__file__).resolve().parent / "layouts", checkout):
        if (folder / "helm" / "codeq" / "Chart.yaml").is_file():
            return folder
    raise Failure("this installation has no layouts; use a wheel or a clone", "NO_LAYOUTS", ExitCode.REFUSED)


def with_image(text: str, choices: Choices) -> str:
    """Returns the text of a layout with the chosen repository of the image."""
    return text.replace(IMAGE, choices.repository)
