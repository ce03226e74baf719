"""docs/cli.md describes every command and option, and every reason of a failure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from codeq_cli.commands import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/cli.md").read_text()


def _commands(group: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yields each command and its options by their longest names."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from _commands(command, f"{path}{name} ")
        else:
            names = [max(parameter.opts, key=len) for parameter in command.params]
            yield path + name, {name for name in names if name.startswith("-")}


COMMANDS = dict(_commands(typer.main.get_group(app)))


def _reasons() -> set[str]:
    """Returns the reasons of the command line's own failures."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "cli/codeq_cli").rglob("*.py")]
    failures = [
        node.args[1]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Failure"
    ]
    return {str(reason.value) for reason in failures if isinstance(reason, ast.Constant)}


def test_document_lists_every_reason_of_the_command_line() -> None:
    reasons = _reasons()
    assert {"USAGE", "NOTHING_TO_CLAIM"} < reasons
    assert {reason for reason in reasons if f"`{reason}`" not in DOCUMENT} == set()


def test_command_list_is_not_empty() -> None:
    assert {"serve", "task create", "task artifact get"} < COMMANDS.keys()
    assert "--payload" in COMMANDS["task create"]


@pytest.mark.parametrize("command", COMMANDS)
def test_document_describes_the_command_and_its_options(command: str) -> None:
    assert f"`{command}" in DOCUMENT
    assert {option for option in COMMANDS[command] if option not in DOCUMENT} == set()
