"""The figures of docs/sizing.md are those of the README."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (?:three nodes: )?(.+?) \| (`make bench-[^`]+`) \| (.+) \|$", re.MULTILINE)


def rows(document: str) -> dict[tuple[str, str], list[str]]:
    """Returns the cells of each row with a bench, by workload and command."""
    found = ROW.findall((ROOT / document).read_text())
    return {(workload, command): [cell.strip() for cell in cells.split("|")] for workload, command, cells in found}


def test_cost_of_a_cycle_is_that_of_the_readme() -> None:
    sizing, measured = rows("docs/sizing.md"), rows("README.md")
    assert len(sizing) == 5
    for row, (cpu, rate) in sizing.items():
        cycles, _, costs, *_ = measured[row]
        assert (rate, cpu) == (cycles, costs.split(",")[0])
