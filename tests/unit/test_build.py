"""Each module of the compiled packages is compiled, or stays interpreted for a reason that pyproject.toml gives.

Compiled coroutines have no exception state of their own, so they must not await while they handle an exception.
"""

from __future__ import annotations

import ast
import importlib
import tomllib
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest
from codeq_server import is_compiled

ROOT = Path(__file__).resolve().parents[2]
LISTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["codeq"]["compiled"]
INTERPRETED: dict[str, str] = LISTED["interpreted"]
WAITS = ast.Await | ast.AsyncWith | ast.AsyncFor | ast.Yield | ast.YieldFrom
END_AT_ONCE = {
    *("asyncio.timeout", "asyncio.timeout_at", "self._writing", "self._keeper.held"),
    *("self._in_flight.turn", "self.bodies.turn", "working_at"),
}
"""Context managers that compiled modules may use with `async with`, because leaving them never suspends."""


def _modules() -> list[str]:
    """Returns the names of all modules of the compiled packages, and of single compiled ones."""
    folders = {name: Path(importlib.import_module(name).__path__[0]) for name in LISTED["packages"]}
    paths = [(name, path) for name, folder in folders.items() for path in sorted(folder.glob("*.py"))]
    return [*(f"{name}.{path.stem}" for name, path in paths if path.stem != "__init__"), *LISTED["modules"]]


@pytest.mark.parametrize("name", _modules())
def test_module_is_loaded_from_the_build_under_test(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    is_extension = str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES))
    assert is_extension == (is_compiled() and name not in INTERPRETED), spec.origin


def test_modules_that_stay_interpreted_exist_and_have_a_reason() -> None:
    assert set(INTERPRETED) - set(_modules()) == set()
    assert [name for name, reason in INTERPRETED.items() if len(reason) < 10] == []


def _inside(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yields nodes and their descendants, except those inside nested functions."""
    for node in nodes:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _inside(ast.iter_child_nodes(node))


def _waits(tree: ast.AST) -> Iterator[str]:
    """Yields the places that may await while an exception is handled, as line and code."""
    for node in ast.walk(tree):
        handling: list[ast.stmt] = []
        if isinstance(node, ast.ExceptHandler):
            handling = node.body
        elif isinstance(node, ast.Try | ast.TryStar):
            handling = node.finalbody
        elif isinstance(node, ast.AsyncWith):
            for used in (item.context_expr for item in node.items):
                if ast.unparse(used.func if isinstance(used, ast.Call) else used) not in END_AT_ONCE:
                    yield f"{used.lineno}: async with {ast.unparse(used)}"
        yield from (f"{wait.lineno}: {ast.unparse(wait)}" for wait in _inside(handling) if isinstance(wait, WAITS))


@pytest.mark.parametrize("name", [name for name in _modules() if name not in INTERPRETED])
def test_compiled_module_never_awaits_while_handling_an_exception(name: str) -> None:
    package, _, module = name.rpartition(".")
    (folder,) = importlib.import_module(package).__path__
    assert list(_waits(ast.parse(Path(folder, f"{module}.py").read_text()))) == []
