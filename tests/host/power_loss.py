"""A disk that forgets unsynced data: the preloaded library of power_loss.c, and the restoration of its image."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from host_tools import need, run

SOURCE = Path(__file__).with_name("power_loss.c")


def build(directory: Path) -> Path:
    """Compiles the library and returns its path."""
    need("gcc")
    library = directory / "power_loss.so"
    run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE, "-lpthread")
    return library


class Disk:
    """A directory that processes access through the library.

    Attributes:
        root: The directory.
        env: Variables for the processes that use it.
    """

    def __init__(self, directory: Path, library: Path) -> None:
        """Makes an empty disk; `directory` must not exist."""
        self.root = directory / "disk"
        self._image = directory / "image"
        self._library = library
        self.root.mkdir(parents=True)
        self._image.mkdir()
        self.env: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "POWER_LOSS_ROOT": str(self.root.resolve()),
            "POWER_LOSS_IMAGE": str(self._image.resolve()),
        }

    def after_power_loss(self, directory: Path) -> Disk:
        """Returns a new disk with the synced content of this one, which no process may use any more."""
        disk = Disk(directory, self._library)
        self._restore((self._image / "root").read_text().strip(), disk.root)
        return disk

    def _restore(self, identity: str, target: Path) -> None:
        names = self._image / f"names-{identity}"
        for line in names.read_text().splitlines() if names.exists() else []:
            kind, entry, name = line.split(" ", 2)
            if kind == "d":
                (target / name).mkdir(mode=0o700)
                self._restore(entry, target / name)
            elif (content := self._image / f"file-{entry}").exists():
                shutil.copyfile(content, target / name)
            else:
                (target / name).touch()
