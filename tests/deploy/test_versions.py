"""One version everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from codeq_cli import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_chart_npm_package_and_layouts_install_this_version() -> None:
    assert str(yaml.safe_load((ROOT / "helm/codeq/Chart.yaml").read_text())["appVersion"]) == __version__
    assert json.loads((ROOT / "npm/package.json").read_text())["version"] == __version__
    assert f"CODEQ_TAG={__version__}\n" in (ROOT / "deploy/docker-compose/production/env.example").read_text()
