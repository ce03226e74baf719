"""A Debian root file system with Python, as the base of the image if no registry can be reached.

Making it takes a minute, so a tar file of it stays in the user's cache. The published base differs:
here Python is Debian's, at another path.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from host_tools import run

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")


def cached_base() -> Path:
    """Returns the tar file of the base, which is made if it is not cached."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codeq"
    cache.mkdir(parents=True, exist_ok=True)
    base = cache / f"base-{SUITE}-{'-'.join(PACKAGES)}.tar"
    with (cache / "base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            _make(base)
    return base


def _make(base: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="base-", dir=base.parent) as directory:
        root, unfinished = Path(directory, "root"), Path(directory, "base.tar")
        run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root)
        for downloads in ("var/cache/apt/archives", "var/lib/apt/lists"):
            for file in (root / downloads).glob("*[._]*"):
                if file.is_file():
                    file.unlink()
        run("tar", "-C", root, "-cf", unfinished, ".")
        unfinished.rename(base)
