"""Each module of the compiled packages is compiled, or stays interpreted for a reason that pyproject.toml gives."""

from __future__ import annotations

import importlib
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest
from codeq_server import is_compiled

ROOT = Path(__file__).resolve().parents[2]
LISTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["codeq"]["compiled"]
INTERPRETED: dict[str, str] = LISTED["interpreted"]


def _modules() -> list[str]:
    """Returns the names of all modules of the compiled packages."""
    folders = {name: Path(importlib.import_module(name).__path__[0]) for name in LISTED["packages"]}
    paths = [(name, path) for name, folder in folders.items() for path in sorted(folder.glob("*.py"))]
    return [f"{name}.{path.stem}" for name, path in paths if path.stem != "__init__"]


@pytest.mark.parametrize("name", _modules())
def test_module_comes_from_the_tested_build(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    is_extension = str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES))
    assert is_extension == (is_compiled() and name not in INTERPRETED), spec.origin


def test_modules_that_stay_interpreted_exist_and_have_a_reason() -> None:
    assert set(INTERPRETED) - set(_modules()) == set()
    assert [name for name, reason in INTERPRETED.items() if len(reason) < 10] == []
