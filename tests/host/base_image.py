"""Debian root file systems with Python, as bases of the image if no registry can be reached.

Making one takes a minute or two, so a tar file of it stays in the user's cache. The published bases differ:
here Python is Debian's, at another path.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from host_tools import run

SUITE = "bookworm"
RUNTIME = ("ca-certificates", "python3")
BUILD = (*RUNTIME, "python3-venv")
COMPILING_BUILD = (*BUILD, "gcc", "libc6-dev", "python3-dev")


def cached_base(packages: Sequence[str]) -> Path:
    """Returns the tar file of a base with these packages, which is made if it is not cached."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codeq"
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    base = cache / f"base-{SUITE}-{digest}.tar"
    with (cache / "base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            _make(base, packages)
    return base


def _make(base: Path, packages: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="base-", dir=base.parent) as directory:
        root, unfinished = Path(directory, "root"), Path(directory, "base.tar")
        run("debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, root)
        for downloads in ("var/cache/apt/archives", "var/lib/apt/lists"):
            for file in (root / downloads).glob("*[._]*"):
                if file.is_file():
                    file.unlink()
        run("tar", "-C", root, "-cf", unfinished, ".")
        unfinished.rename(base)
