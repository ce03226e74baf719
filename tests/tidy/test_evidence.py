"""The tests and planted bugs named in docs/evidence.md exist, and it names every planted bug."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/evidence.md").read_text().splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| promise |"))
]
PLANTED = (ROOT / "tests/sim/test_planted_bugs.py").read_text()


def test_every_guarantee_names_its_tests() -> None:
    assert ROWS
    assert [row for row in ROWS if len(row) != 3 or "::test_" not in row[1]] == []


def test_guarantees_about_rules_and_routes_name_an_acceptance_or_model_test() -> None:
    rules = [row for row in ROWS if row[0].startswith(("**", "`"))]
    assert len(rules) > 30
    assert [row[0] for row in rules if "`tests/acceptance/" not in row[1] and "`tests/model/" not in row[1]] == []


def test_tests_named_by_guarantees_exist() -> None:
    named = re.findall(r"`([^`]+)::(test_\w+)`", "".join(row[1] for row in ROWS))
    assert [(path, name) for path, name in named if f"def {name}(" not in (ROOT / path).read_text()] == []


def test_every_planted_bug_is_named_by_a_guarantee() -> None:
    planted = set(re.findall(r'^    "(.+)": (?:Bug\(|\{)$', PLANTED, re.MULTILINE))
    assert {row[2] for row in ROWS} - {""} == planted
