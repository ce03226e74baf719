"""Every procedure of docs/runbooks names the tests that run its commands, and is found from the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/runbooks").glob("[a-z]*.md"))
LIST = (ROOT / "docs/runbooks/README.md").read_text()


def test_there_are_procedures() -> None:
    assert len(PAGES) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_procedure_is_listed_and_names_tests_that_run_its_commands(page: Path) -> None:
    text = page.read_text()
    title = text.partition("\n")[0].removeprefix("# ")
    assert f"[{title}]({page.name})" in LIST
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text)
    assert named
    for path, name in named:
        tests = (ROOT / path).read_text()
        assert f"def {name}(" in tests
        assert f'"runbooks/{page.stem}"' in tests
