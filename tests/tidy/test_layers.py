"""The import contracts are exhaustive: a module in the wrong layer or outside all layers fails `make lint`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sdks/python/src", "gateway", "server", "cli")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs the import contracts on a copy of the packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(root / package) for package in PACKAGES)}
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        str(ROOT / ".importlinter"),
        "--no-cache",
    ]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Returns the root of a copy of all packages."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.json")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def _stray(root: Path) -> None:
    (root / "server/codeq_server/stray.py").write_text('"""In no layer."""\n')


def _stray_in_node(root: Path) -> None:
    (root / "server/codeq_server/node/stray.py").write_text('"""In no layer."""\n')


def _upwards(root: Path) -> None:
    with (root / "server/codeq_server/engine/space.py").open("a") as module:
        module.write("\nimport codeq_server.services.calls\n")


def _sideways(root: Path) -> None:
    with (root / "server/codeq_server/node/upkeep.py").open("a") as module:
        module.write("\nimport codeq_server.node.listeners\n")


def _kind_of_store(root: Path) -> None:
    with (root / "server/codeq_server/node/upkeep.py").open("a") as module:
        module.write("\nimport codeq_server.storage.rocks\n")


def test_import_contracts_hold(copy: Path) -> None:
    run = lint(copy)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("change", [_stray, _stray_in_node, _upwards, _sideways, _kind_of_store])
def test_forbidden_imports_and_modules_outside_the_layers_are_rejected(
    copy: Path, change: Callable[[Path], None]
) -> None:
    change(copy)
    run = lint(copy)
    assert run.returncode == 1
    assert "BROKEN" in run.stdout or "layer" in run.stdout.lower(), run.stdout
