"""Rules for the compiled packages (ADR 0025) that can only be checked in their source."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
SOURCES: dict[str, str] = TOOLS["setuptools"]["package-dir"]
PACKAGES: list[str] = TOOLS["codeq"]["compiled"]["packages"]
SINGLE: list[str] = TOOLS["codeq"]["compiled"]["modules"]


def _folder(package: str) -> Path:
    top, *rest = package.split(".")
    return ROOT.joinpath(SOURCES[top], *rest)


def _modules() -> dict[str, ast.Module]:
    """Returns the syntax trees of all modules of the compiled packages, and of single compiled ones, by name."""
    paths = {f"{package}.{path.stem}": path for package in PACKAGES for path in sorted(_folder(package).glob("*.py"))}
    paths |= {name: _folder(name).with_suffix(".py") for name in SINGLE}
    return {name: ast.parse(path.read_text()) for name, path in paths.items()}


MODULES = _modules()


def inlined(tree: ast.Module) -> set[str]:
    """Returns the names of the module's constants that the compiler inlines."""
    annotated = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {
        node.target.id
        for node in annotated
        if isinstance(node.target, ast.Name) and "Final" in ast.dump(node.annotation)
    }


def patched(tree: ast.Module) -> Iterator[str]:
    """Yields the full names of module constants set by a test: names that follow a module in a call or tuple.

    If the name is in a variable, any string in the test counts as that name.
    """
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    yield from (text for text in texts if text.startswith("codeq_"))
    for node in ast.walk(tree):
        values: Sequence[ast.expr] = node.args if isinstance(node, ast.Call) else getattr(node, "elts", ())
        for place, name in pairwise(values):
            if isinstance(place, ast.Name) and place.id in modules:
                named = {name.value} if isinstance(name, ast.Constant) else texts if isinstance(name, ast.Name) else ()
                yield from (f"{modules[place.id]}.{each}" for each in named)


def test_limits_that_tests_lower_are_not_inlined() -> None:
    constants = {f"{module}.{name}" for module, tree in MODULES.items() for name in inlined(tree)}
    tests = sorted((ROOT / "tests").rglob("*.py"))
    found = {name for path in tests for name in patched(ast.parse(path.read_text()))}
    assert sorted(found & constants) == []


def test_lowered_limit_is_found_however_a_test_names_it() -> None:
    source = 'from a import b as c\nset(c, "X", 1)\nfor each in ((c, "Y", 2),): pass\nset("codeq_x.Z", 3)\n'
    assert set(patched(ast.parse(source))) == {"a.b.X", "a.b.Y", "codeq_x.Z"}
    assert "a.b.X" in set(patched(ast.parse('from a import b\nfor name in ["X"]: set(b, name, 1)')))


def test_classes_extend_only_typed_classes() -> None:
    compiled = set(MODULES) - set(TOOLS["codeq"]["compiled"]["interpreted"])
    texts = {
        name: (_folder(name.rpartition(".")[0]) / f"{name.rpartition('.')[2]}.py").read_text() for name in compiled
    }
    pattern = re.compile(r"^\s*class .*type: ignore", re.MULTILINE)
    assert sorted(name for name, text in texts.items() if pattern.search(text)) == []


def _called(function: ast.AST) -> set[str]:
    """Returns the names of the functions, and of the methods of the same object, that a function calls."""
    names = set()
    for call in (node.func for node in ast.walk(function) if isinstance(node, ast.Call)):
        if isinstance(call, ast.Name):
            names.add(call.id)
        elif isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "self":
            names.add(call.attr)
    return names


def calling_themselves(tree: ast.AST) -> set[str]:
    """Returns the names of functions that may call themselves, directly or through other functions of the module."""
    calls: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            calls.setdefault(node.name, set()).update(_called(node))
    found = set()
    for name, first in calls.items():
        seen: set[str] = set()
        ahead = list(first)
        while ahead:
            if (each := ahead.pop()) not in seen and each in calls:
                seen.add(each)
                ahead += calls[each]
        if name in seen:
            found.add(name)
    return found


TYPES = "the nesting of message types, which is fixed"
FILES = "the nesting of our own folders or of imports between protos"
BOUNDS = {
    "codeq_gateway": {
        TYPES: {
            "_compile",
            "_member",
            "_list_names",
            "_lists",
            "_wanted",
            "_shown",
            "_shown_one",
            "_reachable",
            "restore",
        }
        | {"reference", "message", "field", "_sent", "_value"},
        FILES: {"_files", "add", "_reworded"},
        "the segments of the longest route": {"_walk"},
        "one: parsing what was read never triggers another read": {"_read", "_count_body", "_admit", "_refuse"}
        | {"_break_off", "_advance", "_answer", "_answered"},
        "one: another object's method of the same name": {"discard", "hold"},
    },
    "codeq_server.services": {
        TYPES: {"_fields", "_check", "_first_bytes", "_count", "_places", "_has_any", "remove_content"},
        "DEPTH_MAX of payload_schemas": {"of", "_referred"},
    },
    "codeq_server.engine": {
        "one: releasing files makes no further changes": {"changed", "_carry_out", "_written", "_let_files_go"},
        "none: the argument has the same name as the method": {"refuse", "refuse_all"},
    },
}
"""The recursive functions of each package, with the bound on their depth."""


def test_recursive_functions_have_a_bound() -> None:
    unbounded = []
    for module, tree in MODULES.items():
        bounds = BOUNDS.get(module.rpartition(".")[0], {})
        unbounded += [f"{module}.{name}" for name in calling_themselves(tree) - set().union(*bounds.values())]
    assert sorted(unbounded) == []


@pytest.mark.parametrize(
    "source",
    [
        "def a(): a()",
        "def a(): b()\ndef b(): a()",
        "class A:\n    def a(self): self.a()",
        "def outer():\n    def a(): a()",
    ],
)
def test_recursive_function_is_found(source: str) -> None:
    assert "a" in calling_themselves(ast.parse(source))
