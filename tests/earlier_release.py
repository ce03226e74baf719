"""The last release of the project, to run beside this checkout."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("server", "gateway", "cli", "sdks/python/src")
PRESENT = ":".join(str(ROOT / package) for package in PACKAGES)
"""PYTHONPATH of this checkout."""


def earlier(folder: Path) -> str:
    """Returns the PYTHONPATH of the last release, or of the last commit before the first release."""
    git = ["git", "-C", str(ROOT)]
    tags = subprocess.run([*git, "tag", "--sort=-creatordate"], capture_output=True, text=True, check=True).stdout
    revision = (tags.split() or ["HEAD"])[0]
    archive = subprocess.run([*git, "archive", revision, *PACKAGES], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as content:
        content.extractall(folder, filter="data")
    return ":".join(str(folder / package) for package in PACKAGES)
