"""System tools; if a tool is missing, the test fails with the name of the tool's package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGES = {
    "buildah": "buildah",
    "curl": "curl",
    "debootstrap": "debootstrap",
    "gcc": "gcc",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "javac": "openjdk-17-jdk-headless",
    "jq": "jq",
    "nft": "nftables",
    "nginx": "nginx-light",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "strace": "strace",
    "tar": "tar",
}
"""Debian package of each tool."""

OUTPUT_TAIL_CHARS = 6000


def need_root() -> None:
    """Fails the test when it does not run as root."""
    if os.geteuid() != 0:
        pytest.fail("this test needs root: it makes root file systems and containers")


def need(*tools: str) -> None:
    """Fails the test when a tool is missing."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(PACKAGES[tool] for tool in missing)
        pytest.fail(f"missing on this machine: {', '.join(missing)}; install the Debian package(s) {packages}")


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Runs a command and returns its stdout.

    Raises:
        AssertionError: The command failed; the message ends with its output.
    """
    done = subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    output = (done.stdout + done.stderr)[-OUTPUT_TAIL_CHARS:]
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{output}"
    return done.stdout
