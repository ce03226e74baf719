"""Writes docs/reference/go.md from sdks/go/api, the output of `go doc -all`; `make generate` runs it.

A Go test keeps sdks/go/api equal to the sources.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).with_name("reference") / "go.md"
SOURCE: Final = Path(__file__).resolve().parents[1] / "sdks" / "go" / "api"
PACKAGES: Final = ("codeq", "producer", "worker", "client", "reasons", "producerclient", "workerclient")
INTRODUCTION: Final = """# Go SDK: reference

All exported names of the packages, written by `make generate` from the output of `go doc`. The guide is the SDK's
[README](../../sdks/go/README.md).
"""

_HEAD: Final = re.compile(r'package (?P<name>\w+) // import "(?P<path>[^"]+)"')
_GROUPS: Final = {"CONSTANTS": "Constants", "VARIABLES": "Variables", "FUNCTIONS": "Functions", "TYPES": "Types"}
_NAME: Final = re.compile(r"(?:func|type) (?:\(\w+ \*?(?P<of>\w+)(?:\[[^]]*\])?\) )?(?P<name>\w+)")
_NOT_CODE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|//.*')
_INDENT: Final = "    "


def fresh() -> str:
    """Returns the document."""
    packages = ("\n".join(_package((SOURCE / f"{name}.txt").read_text())) for name in PACKAGES)
    return "\n".join([INTRODUCTION, *packages])


def _package(text: str) -> Iterator[str]:
    first, _, rest = text.partition("\n")
    head = _HEAD.fullmatch(first)
    assert head is not None
    name, path = head["name"], head["path"]
    yield f"## {name}\n"
    yield _code(f'import "{path}"')
    lines = rest.split("\n")
    at = next((number for number, line in enumerate(lines) if line in _GROUPS), len(lines))
    yield from _text("\n".join(lines[:at]))
    while at < len(lines):
        line = lines[at]
        if line in _GROUPS:
            yield f"### {_GROUPS[line]} of {name}\n"
            at += 1
        elif not line:
            at += 1
        else:
            end = _end_of_declaration(lines, at)
            named = _NAME.match(line)
            if named is not None:
                of = f"{named['of']}." if named["of"] else ""
                yield f"#### {name}.{of}{named['name']}\n"
            yield _code("\n".join(lines[at:end]))
            at = end
            while at < len(lines) and (lines[at].startswith(_INDENT) or (not lines[at] and _goes_on(lines, at))):
                at += 1
            yield from _text(textwrap.dedent("\n".join(lines[end:at])))


def _end_of_declaration(lines: list[str], at: int) -> int:
    """Returns the number of the line after the declaration, which ends when all brackets are closed."""
    depth = 0
    for number in range(at, len(lines)):
        code = _NOT_CODE.sub("", lines[number])
        depth += sum(code.count(sign) for sign in "({[") - sum(code.count(sign) for sign in ")}]")
        if depth == 0:
            return number + 1
    return len(lines)


def _goes_on(lines: list[str], at: int) -> bool:
    """Returns whether the text of a declaration goes on after an empty line."""
    return at + 1 < len(lines) and lines[at + 1].startswith(_INDENT)


def _text(text: str) -> Iterator[str]:
    """Yields the paragraphs of a comment; indented ones are code."""
    for paragraph in text.strip("\n").split("\n\n"):
        if paragraph.startswith(_INDENT):
            yield _code(textwrap.dedent(paragraph))
        elif paragraph:
            yield f"{paragraph}\n"


def _code(text: str) -> str:
    return f"```go\n{text}\n```\n"


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(fresh())
