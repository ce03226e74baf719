"""The house rules that a program can check: each function takes text and returns the violations in it."""

from __future__ import annotations

import ast
import re

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

VAGUE_NAMES = frozenset({"common", "helper", "helpers", "misc", "util", "utils"})
"""Names of modules and packages that say nothing about their contents."""

IMPURE_MODULES = frozenset(
    {"asyncio", "concurrent", "os", "pathlib", "random", "secrets", "socket", "threading", "time"}
)
"""Modules of the standard library that the core must not import: time and randomness are passed in as arguments."""

IMPURE_CALLS = frozenset({"datetime.now", "datetime.utcnow", "date.today", "uuid.uuid1", "uuid.uuid4", "uuid4", "open"})
"""Calls that the core must not make, as they appear in source code."""

TABLES = frozenset(bytes((letter,)) for letter in b"deilmqrstuxz")
"""Prefixes of row keys."""

# Written in pieces, so that no file, including this one, names the host of a registry.
_ORG, _COM, _IO = r"\." + "org", r"\." + "com", r"\." + "io"
_HOSTS = re.compile(
    "|".join(
        (
            "pypi" + _ORG,
            "pythonhosted" + _ORG,
            r"registry\.npmjs" + _ORG,
            r"registry\.yarnpkg" + _COM,
            r"(?:proxy|sum)\.golang" + _ORG,
            r"(?:index|static)\.crates" + _IO,
            r"repo1?\.maven(?:\.apache)?" + _ORG,
            r"deb\.debian" + _ORG,
        )
    )
)
_MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:" + "|".join(("root", "work", "farm", r"home/\w+", r"Users/\w+")) + ")/")
_UNFINISHED = re.compile(
    r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")) + r")\b"
)
_SKIPS = re.compile(
    "|".join(
        (
            r"mark\.(?:skip|skipif|xfail)\b",
            r"pytest\.(?:skip|xfail|importorskip)\(",
            r"\bt\.Skip",
            r"\b(?:it|test)\.(?:skip|todo)\(",
        )
    )
)
_LOG_CALL = re.compile(r"_(?:log|LOG)\.(?:debug|info|warning|error|exception)")
_EVENT = re.compile(r"[a-z]+(?:_[a-z]+)*")
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)")
_ANCHORED_LINK = re.compile(r"\]\(((?:(?!\w+:)[^)#\s]+\.md)?)#([^)\s]+)\)")
_LINKED = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def lines_matching(pattern: re.Pattern[str], text: str) -> list[str]:
    """Returns "line number: line" of each line in which the pattern is found."""
    return [
        f"{number}: {line.strip()[:160]}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)
    ]


def registry_hosts(text: str) -> list[str]:
    """Returns the lines that name the host of a package registry."""
    return lines_matching(_HOSTS, text)


def machine_paths(text: str) -> list[str]:
    """Returns the lines that contain a path from somebody's machine."""
    return lines_matching(_MACHINE_PATH, text)


def unfinished_marks(text: str) -> list[str]:
    """Returns the lines with a mark of unfinished work."""
    return lines_matching(_UNFINISHED, text)


def skip_marks(text: str) -> list[str]:
    """Returns the lines that may prevent a test from running or hide its failure."""
    return lines_matching(_SKIPS, text)


def relative_links(text: str) -> list[str]:
    """Returns the targets of links into the project in a Markdown text; code has none."""
    return _LINK.findall(_CODE_BLOCK.sub("", text))


def anchored_links(text: str) -> list[tuple[str, str]]:
    """Returns document (empty: the text itself) and anchor of each link to a heading in a Markdown text."""
    return _ANCHORED_LINK.findall(_CODE_BLOCK.sub("", text))


def anchors(text: str) -> set[str]:
    """Returns the anchors of the headings in a Markdown text, which differ from each other."""
    titles = [_LINKED.sub(r"\1", title).lower() for title in _HEADING.findall(_CODE_BLOCK.sub("", text))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def long_functions(source: str) -> list[str]:
    """Returns "name: lines" of each Python function above the limit, not counting its decorators."""
    return [
        f"{node.name}: {length} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def impurities(source: str) -> list[str]:
    """Returns each use of a clock, randomness, an event loop, threads or files in a Python module of the core."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in IMPURE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPURE_MODULES:
            found.append(f"from {node.module} import")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in IMPURE_CALLS or called.removeprefix("datetime.") in IMPURE_CALLS:
                found.append(f"{called}()")
    return found


def wordy_events(source: str) -> list[str]:
    """Returns the texts that a Python module logs and that are not the name of an event: its values are fields."""
    return [
        text.value
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and call.args and _LOG_CALL.fullmatch(ast.unparse(call.func))
        for text in ast.walk(call.args[0])
        if isinstance(text, ast.Constant) and not _EVENT.fullmatch(str(text.value))
    ]


def hand_made_keys(source: str) -> list[str]:
    """Returns the expressions in a Python module of the server that build a row key without `core/keys.py`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in TABLES:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = [ast.unparse(side).removeprefix("self.") for side in (node.left, node.right)]
            if any("_prefix" in side or ".to_bytes(" in side for side in sides):
                found.append(ast.unparse(node))
    return found


def vague_parts(path: str) -> list[str]:
    """Returns the parts of a module's path that have vague names."""
    return [part for part in path.removesuffix(".py").split("/") if part in VAGUE_NAMES]


def unhashed_requirements(text: str) -> list[str]:
    """Returns the requirements of a compiled file that are not pinned with a hash."""
    joined = text.replace("\\\n", " ")
    return [
        line.split()[0]
        for line in joined.splitlines()
        if line.strip() and not line.lstrip().startswith("#") and not ("==" in line and "--hash=sha256:" in line)
    ]
