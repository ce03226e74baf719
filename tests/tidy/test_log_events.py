"""The operators' document lists every event that the log may have, at the level that the code gives it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from codeq_server.auth.jwks.config import KEYS_FETCHED
from codeq_server.core.notable import DEAD_LETTERED, LEASE_EXPIRED

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("server/codeq_server", "gateway/codeq_gateway")
QUIET = {"debug", "info"}
LOUD = {"warning", "error", "exception", "critical"}
LINES = {"http_request_finished", "grpc_call_finished", LEASE_EXPIRED, KEYS_FETCHED}
"""Events of level info whose names the code passes on or writes itself."""
LOUD_LINES = {"log_lines_lost", "log_line_failed", DEAD_LETTERED}
"""Those of a higher level."""
Event = tuple[str, bool]
"""Name of an event, and whether its level is warning or above."""


def events_of(tree: ast.AST) -> Iterator[Event | None]:
    """Yields the events that a module logs; None: one whose name is not written there."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, arguments = node.func, node.args
        if isinstance(called, ast.Name) and called.id == "partial":
            called, arguments = node.args[0], node.args[1:]
        if not isinstance(called, ast.Attribute) or not arguments:
            continue
        name = arguments[0]
        choices = (name.body, name.orelse) if isinstance(name, ast.IfExp) else (name,)
        texts = [each.value for each in choices if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if called.attr == "_report":  # how a provider of tokens has its events logged
            yield from ((text, True) for text in texts)
        elif called.attr in QUIET | LOUD and ast.unparse(called.value).lower().rpartition(".")[2] in {"log", "_log"}:
            yield from ((text, called.attr in LOUD) for text in texts)
            if len(texts) < len(choices):
                yield None


def logged() -> Iterator[tuple[str, Event | None]]:
    """Yields all events, each with its module."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for event in events_of(ast.parse(path.read_text())):
                yield path.relative_to(ROOT / package).as_posix(), event


def documented(heading: str) -> list[str]:
    """Returns the events in the first column of the table that follows a heading."""
    section = (ROOT / "docs/operations.md").read_text().partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    rows = table[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


@pytest.mark.parametrize(
    ("heading", "others", "is_loud"),
    [("## Logs", LINES, False), ("### Warnings and errors", LOUD_LINES, True)],
)
def test_operators_document_lists_every_event_of_the_log(heading: str, others: set[str], is_loud: bool) -> None:
    names = {event[0] for _, event in logged() if event is not None and event[1] is is_loud}
    assert sorted(documented(heading)) == sorted(names | others)


def test_events_have_names_that_a_reader_of_the_code_finds() -> None:
    assert [path for path, event in logged() if event is None] == []


def test_events_of_a_module_are_found_with_their_levels() -> None:
    module = """
_log.info("started")
_log.warning("late" if x else "later", by=1)
self._log.exception("broken")
partial(_LOG.debug, "seen")
self._report("rejected", "why")
_log.error(name)
other.info("nothing")
"""
    assert [*events_of(ast.parse(module))] == [
        ("started", False),
        ("late", True),
        ("later", True),
        ("broken", True),
        ("seen", False),
        ("rejected", True),
        None,
    ]
