"""Adding a task field takes only a few hand-written files: a patch is applied to a copy, built and tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATCH = ROOT / "tests/tidy/new_field/label.diff"
PROMISES = ROOT / "tests/tidy/new_field/label_promises.py"
PACKAGES = ("sdks/python/src", "gateway", "server", "cli")
GENERATORS = ".venv", ".tools", "sdks/ts/node_modules"
"""Folders that `make setup-dev` installs and the copy shares."""
FILES_MAX = 10
"""Maximum number of hand-written files, not counting tests and documents, that a new scalar field may change."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Returns the root of a copy of the checkout."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    for name in GENERATORS:
        (tmp_path / name).symlink_to((ROOT / name).resolve())
    return tmp_path


@pytest.mark.timeout(300)
def test_adding_a_scalar_field_touches_only_a_few_files(copy: Path) -> None:
    changed = re.findall(r"^\+\+\+ b/(.*)$", PATCH.read_text(), re.MULTILINE)
    assert len(changed) <= FILES_MAX
    run(copy, "git", "apply", "--recount", "-C1", str(PATCH))
    run(copy, "buf", "generate", "--template", "buf.gen.yaml")
    tests = copy / "tests/acceptance/test_label.py"
    shutil.copyfile(PROMISES, tests)
    done = run(copy, sys.executable, "-m", "pytest", "-q", "-n", "0", "--rootdir", str(copy), str(tests))
    assert re.search(r"^4 passed", done, re.MULTILINE), done


def run(copy: Path, *command: str) -> str:
    """Runs a command in the copy; returns its output."""
    packages = os.pathsep.join(str(copy / package) for package in PACKAGES)
    path = os.pathsep.join([str(ROOT / ".venv/bin"), str(ROOT / ".tools/bin"), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": packages, "PATH": path, "GIT_CEILING_DIRECTORIES": str(copy.parent)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
