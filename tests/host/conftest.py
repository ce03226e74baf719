"""Tests that need root or system tools. These tests run only when they are named: `pytest tests/host`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Walks and clients are in the HTTP tests, and the documented environment is in the acceptance tests.
sys.path += [str(HERE.parent / name) for name in ("http", "acceptance")]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves this folder out unless a pytest argument names it or something in it."""
    start = config.invocation_params.dir
    named = [(start / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True
