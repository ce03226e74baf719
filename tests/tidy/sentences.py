"""Draws random sentences from the project, so that a reader can judge whether each is natural technical English.

    python tests/tidy/sentences.py --seed 7              fifty sentences
    python tests/tidy/sentences.py --seed 7 --count 10

Draws equally from documents, docstrings, proto comments, messages and test names.
Prints one sentence per line, with its file and line. The same seed on the same files draws the same sentences.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORDS_MIN = 3
"""Minimum number of words in a sentence, not counting code; shorter sentences leave little to judge."""

_FOREIGN = ("proto/vendor/", "tests/clients/")
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"(])")
_CODE = re.compile(r"`[^`]*`")
_WORD = re.compile(r"[A-Za-z_]{2,}")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"\*\*|^\s*(?:[-#>|]|\d+\.)+\s*")
_ENTRY = re.compile(r"\n(?=\s*[\w*]+(?:, [\w*]+)*: )|^(?:Args|Attributes|Raises|Returns|Yields):", re.MULTILINE)
"""Matches the start of an entry in a docstring section."""
_LOGS = frozenset({"debug", "info", "warning", "error", "exception"})


class Sentence(NamedTuple):
    """A sentence and its location.

    Attributes:
        kind: Where it was found: "documents", "docstrings", "proto comments", "messages" or "test names".
        path: File, relative to the root.
        line: Line, from 1.
        text: The sentence.
    """

    kind: str
    path: str
    line: int
    text: str


def found_in(path: str, text: str) -> Iterator[Sentence]:
    """Yields the sentences of a file; for tests, only names and docstrings."""
    if path.endswith(".md"):
        yield from _of_document(path, text)
    elif path.endswith(".proto"):
        yield from _of_proto(path, text)
    elif path.endswith(".py"):
        for node in ast.walk(ast.parse(text)):
            yield from _of_node(path, node)


def _split(kind: str, path: str, line: int, text: str) -> Iterator[Sentence]:
    for sentence in _END.split(" ".join(text.split())):
        if len(_WORD.findall(_CODE.sub("", sentence))) >= WORDS_MIN:
            yield Sentence(kind, path, line, sentence)


def _of_document(path: str, text: str) -> Iterator[Sentence]:
    paragraph, began, is_code = "", 1, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        is_fence = line.startswith("```")
        if is_fence or is_code or not line.strip() or line.lstrip()[:1] in {"-", "#", "|"}:
            yield from _split("documents", path, began, paragraph)
            paragraph = ""
            is_code ^= is_fence
        if is_fence or is_code or line.startswith("|--"):
            continue
        if not paragraph:
            began = number
        if line.startswith("|"):
            for cell in line.strip("|").split("|"):
                yield from _split("documents", path, number, _plain(cell))
        elif line.startswith("#"):
            yield from _split("documents", path, number, _plain(line))
        else:
            paragraph += " " + _plain(line)


def _plain(text: str) -> str:
    """Returns text without Markdown syntax."""
    return _MARKS.sub("", _LINK.sub(r"\1", text))


def _of_proto(path: str, text: str) -> Iterator[Sentence]:
    comment, began = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if said.startswith("//"):
            began = began if comment else number
            comment += " " + said[2:]
        else:
            yield from _split("proto comments", path, began, comment)
            comment = ""


def _of_node(path: str, node: ast.AST) -> Iterator[Sentence]:
    is_test = path.startswith("tests/")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_test and node.name.startswith("test_"):
        yield from _split("test names", path, node.lineno, node.name.removeprefix("test_").replace("_", " "))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        for part in node.value.value.split("\n\n"):
            for entry in _ENTRY.split(part):
                yield from _split("docstrings", path, node.lineno, entry)
    elif is_test:
        return
    elif isinstance(node, ast.Raise) and node.exc is not None:
        yield from _of_message(path, node.exc)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LOGS:
        yield from _of_message(path, node)
    elif isinstance(node, ast.keyword) and node.arg == "help":
        yield from _of_message(path, node.value)


def _of_message(path: str, node: ast.AST) -> Iterator[Sentence]:
    """Yields the texts of a raise statement, a log call or a help argument; values in f-strings become {}."""
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
        yield from _split("messages", path, node.lineno, "".join(parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _split("messages", path, node.lineno, node.value)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _of_message(path, child)


def draw(seed: int, count: int) -> list[Sentence]:
    """Returns sentences drawn from the tracked files with a seed: the same number of each kind, in file order."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    kinds: dict[str, list[Sentence]] = {}
    for path in sorted(filter(None, listed.split("\0"))):
        if "_pb2" in path or "/gen/" in path or path.startswith(_FOREIGN) or not (ROOT / path).is_file():
            continue
        if path.endswith((".md", ".proto", ".py")):
            for sentence in found_in(path, (ROOT / path).read_text()):
                kinds.setdefault(sentence.kind, []).append(sentence)
    generator = random.Random(seed)
    drawn: list[Sentence] = []
    for index, (_, sentences) in enumerate(sorted(kinds.items())):
        share = count // len(kinds) + (index < count % len(kinds))
        drawn += generator.sample(sentences, min(share, len(sentences)))
    return sorted(drawn)


def main() -> None:
    """Prints the sentences for the seed given as an argument."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True, help="seed of the draw")
    parser.add_argument("--count", type=int, default=50, help="number of sentences")
    given = parser.parse_args()
    for sentence in draw(given.seed, given.count):
        sys.stdout.write(f"{sentence.path}:{sentence.line}: {sentence.text}\n")


if __name__ == "__main__":
    main()
