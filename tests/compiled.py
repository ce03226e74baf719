"""Tests the compiled build in a copy of the checkout whose hot modules are extensions; the checkout stays unchanged.

`compiled-quick` turns off the C compiler's optimisations, so that building takes a quarter of the time; the C code is
the same. Build results stay under `build`, so that only packages whose C code changed are compiled again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
COPY: Final = ROOT / "build" / "compiled-checkout"
PACKAGES: Final = {"codeq_server": "server", "codeq_gateway": "gateway"}
"""Folder of each package with extensions, in the checkout."""
PATHS: Final = ("sdks/python/src", "gateway", "server", "cli")
SHARED: Final = (".venv", ".tools", "sdks/ts/node_modules", "tests/clients/node/node_modules")


def build(*, quick: bool) -> Path:
    """Compiles the extensions outside the source tree and returns the folder with them."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    environment = os.environ | {"CODEQ_COMPILE": "1"}
    if not quick:
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        (folder,) = (ROOT / "build").glob(f"lib.*{sys.implementation.cache_tag}")
        return folder
    folder = ROOT / "build" / "quick-extensions"
    command += ["--build-lib", str(folder), "--build-temp", f"{folder}-objects"]
    subprocess.run(command, cwd=ROOT, env=environment | {"CODEQ_OPT_LEVEL": "0"}, check=True)
    return folder


def copy(extensions: Path) -> None:
    """Makes the copy: all files that git does not ignore, and the extensions beside their sources."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)
    for path in extensions.rglob("*.so"):
        inside = path.relative_to(extensions)
        shutil.copy2(path, COPY / PACKAGES[inside.parts[0]] / inside)
    built = [f"build/{path.name}" for path in (ROOT / "build").iterdir() if path != COPY]
    for name in (*SHARED, *built):
        if (ROOT / name).exists():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            (COPY / name).symlink_to(ROOT / name)


def main(steps: list[str]) -> int:
    """Runs steps of tests/run.py in the copy; returns 1 if one failed."""
    copy(build(quick="compiled-quick" in steps))
    path = os.pathsep.join(str(COPY / name) for name in PATHS)
    environment = {**os.environ, "PYTHONPATH": path, "TESTED_BUILD": "compiled"}
    return subprocess.run([sys.executable, "tests/run.py", *steps], cwd=COPY, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
