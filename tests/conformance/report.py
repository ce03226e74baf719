"""Writes docs/conformance.md: the cases, the drivers that run them, and what they cover.

`python tests/conformance/report.py` writes the tables of cases and coverage, which follow from the cases alone. With
`--results FILE`, a JUnit report of the suite, it also writes how each case ended on each driver; without it, it keeps
the results that the document has.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = ROOT / "docs" / "conformance.md"

for folder in ("tests", "tests/conformance", "sdks/python/src", "server", "gateway", "cli"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

from case_files import DRIVERS, Case, cases  # noqa: E402
from contract import METHODS, declared  # noqa: E402
from coverage_of_cases import calls, exceptions, failures, shown_route  # noqa: E402

_HEADS: Final = {"python": "Python", "go": "Go", "ts": "TypeScript", "rest": "REST"}
_ROW: Final = re.compile(r"^\| `([a-z0-9-]+)` \| [^|]* \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
_TEST: Final = re.compile(r"test_case\[(.+)-(python|go|ts|rest)\]")
_INTRO: Final = """# Conformance

One suite of cases runs against the SDKs for Python, Go and TypeScript and against REST: `tests/conformance`. The cases
are data (`cases/*.yaml`); a small program for each SDK, its *driver*, executes their steps. A case uses real servers,
or scripted ones for what a real server does too rarely: break, stall, or answer with an odd reason.

```sh
make conformance    # runs all cases, and writes this document
```

`yes`: the case passed when this document was last written with results. `FAILS`: it failed. `?`: it has not been run.
A dash: REST has no such operation.
"""


def document(results: Mapping[tuple[str, str], str]) -> str:
    """Returns the document.

    Args:
        results: How a case ended on a driver; missing: not known.
    """
    return "\n".join([_INTRO, *_case_tables(results), *_call_table(), *_exception_table()])


def results_of(text: str) -> dict[tuple[str, str], str]:
    """Returns the results that a document has."""
    found: dict[tuple[str, str], str] = {}
    for name, *cells in _ROW.findall(text):
        found |= {(name, driver): cell for driver, cell in zip(DRIVERS, cells, strict=True) if cell in ("yes", "FAILS")}
    return found


def results_in(report: Path) -> dict[tuple[str, str], str]:
    """Returns the results in a JUnit report."""
    names = {f"{case.subject}-{case.name}": case.name for case in cases()}
    found: dict[tuple[str, str], str] = {}
    for test in ElementTree.parse(report).iter("testcase"):
        if match := _TEST.fullmatch(test.get("name", "")):
            has_failed = test.find("failure") is not None or test.find("error") is not None
            found[names[match[1]], match[2]] = "FAILS" if has_failed else "yes"
    return found


def _case_tables(results: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield f"## Cases\n\n{len(cases())} cases.\n"
    for subject in dict.fromkeys(case.subject for case in cases()):
        yield f"### {subject.replace('_', ' ').capitalize()}\n"
        yield f"| case | proves | {' | '.join(_HEADS.values())} |"
        yield "|---" * (2 + len(DRIVERS)) + "|"
        yield from (_case_row(case, results) for case in cases() if case.subject == subject)
        yield ""


def _case_row(case: Case, results: Mapping[tuple[str, str], str]) -> str:
    cells = [results.get((case.name, each), "?") if each in case.drivers else "-" for each in DRIVERS]
    says = case.says + (f" ({case.why})" if case.why else "")
    return f"| `{case.name}` | {says.replace('|', '/')} | {' | '.join(cells)} |"


def _call_table() -> Iterator[str]:
    yield "## Calls and their errors\n"
    yield "Every RPC, and the reasons that the protos declare for it. Cases provoke them on real servers, except those"
    yield "in italics: see below.\n"
    yield "| call | REST | cases | reasons |\n|---|---|---|---|"
    for rpc in METHODS:
        shown = [f"`{each}`" if (rpc, each) in failures(real=True) else f"*{each}*" for each in sorted(declared()[rpc])]
        yield f"| {rpc} | {shown_route(rpc)} | {len(calls().get(rpc, ()))} | {', '.join(shown)} |"
    yield ""


def _exception_table() -> Iterator[str]:
    yield "## Reasons that only a scripted server gives\n"
    yield "| reasons | calls | why |\n|---|---|---|"
    rows: dict[tuple[str, str], list[str]] = {}
    for (rpc, reason), why in exceptions().items():
        rows.setdefault((reason, why), []).append(rpc)
    for (reason, why), rpcs in sorted(rows.items()):
        shown = ", ".join(rpcs) if len(rpcs) <= 6 else f"{len(rpcs)} calls"
        yield f"| `{reason}` | {shown} | {why} |"
    yield ""


def main() -> None:
    """Writes the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="JUnit report of the suite")
    given = parser.parse_args()
    kept = results_of(DOCUMENT.read_text()) if DOCUMENT.exists() else {}
    new = results_in(given.results) if given.results else {}
    DOCUMENT.write_text(document(kept | new))


if __name__ == "__main__":
    main()
