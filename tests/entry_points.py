"""The entry points that the checkout's pyproject.toml declares, whichever version of the server is installed."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def describe_server(folder: Path, *, entry_points: bool = True) -> Path:
    """Writes metadata of the checkout's server, which counts wherever `folder` comes first on the path; returns it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        line
        for group, names in declared.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    described = folder / "codeq_server-0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Name: codeq-server\nVersion: {version('codeq-server')}\n")
    (described / "entry_points.txt").write_text("\n".join(lines if entry_points else []))
    return folder
