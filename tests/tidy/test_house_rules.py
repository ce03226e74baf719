"""The project follows its house rules. New files are checked before they are committed."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import rules

ROOT = Path(__file__).resolve().parents[2]
COMPILED_REQUIREMENTS = tuple(path.name for path in ROOT.glob("requirements*.txt"))
VENDORED = "proto/vendor/"


def _tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted({path for path in listed.split("\0") if path and (ROOT / path).is_file()})


TRACKED = _tracked()


def _is_generated(path: str) -> bool:
    return "_pb2" in path or "/gen/" in path or path.startswith(VENDORED)


def _texts(*, but: Callable[[str], bool] = lambda _: False) -> dict[str, str]:
    """Returns the tracked text files by path."""
    return {
        path: (ROOT / path).read_text(encoding="utf-8", errors="replace")
        for path in TRACKED
        if not but(path) and b"\0" not in (ROOT / path).read_bytes()[:8000]
    }


def _python() -> dict[str, str]:
    return {path: text for path, text in _texts(but=_is_generated).items() if path.endswith(".py")}


def _found(texts: dict[str, str], rule: Callable[[str], list[str]]) -> list[str]:
    return [f"{path}: {finding}" for path, text in texts.items() for finding in rule(text)]


def test_project_files_are_found() -> None:
    assert {"README.md", "Makefile", "pyproject.toml"} <= set(TRACKED)
    assert len(_python()) > 10


def test_modules_stay_within_the_line_limit() -> None:
    assert [path for path, text in _python().items() if len(text.splitlines()) > rules.MODULE_LINES_MAX] == []


def test_functions_stay_within_the_line_limit() -> None:
    assert _found(_python(), rules.long_functions) == []


def test_module_names_are_not_vague() -> None:
    assert [path for path in _python() if rules.vague_parts(path)] == []


def test_core_is_pure() -> None:
    core = {path: text for path, text in _python().items() if path.startswith("server/codeq_server/core/")}
    assert core
    assert _found(core, rules.impurities) == []


def test_logged_events_have_fixed_names() -> None:
    product = {path: text for path, text in _python().items() if path.startswith(("server/", "gateway/"))}
    assert _found(product, rules.wordy_events) == []


KEY_PACKAGES = ("core", "engine", "services", "node", "storage")
"""Server packages that handle rows; `replication` has its own rows, with keys in `log_rows.py`."""
KEYS_ALONE = {
    # Once for each task: the call would cost as much as the rest of the row.
    "core/creates.py": {"lane.task_prefix + position.to_bytes(6, 'big')"},
    "core/ending.py": {"home.state_prefix + position.to_bytes(6, 'big')"},
    # No keys: a page token, tags of a digest, and a file beside the store.
    "services/newest_first.py": {
        "number.to_bytes(4, 'big') + b''.join((bound.to_bytes(_BOUND_BYTES, 'big') for bound in bounds))"
    },
    "services/fingerprint.py": {
        "b't'",
        "b'd'",
        "b'e'",
        "b'r'",
        "tag + len(content).to_bytes(4, 'big')",
        "tag + len(content).to_bytes(4, 'big') + content",
    },
    "storage/durable.py": {"_MAGIC + lsn.to_bytes(8, 'big')", "body + zlib.crc32(body).to_bytes(4, 'big')"},
}
"""Expressions that are allowed to look like hand-made keys, by module."""


def test_only_key_modules_build_keys() -> None:
    server = "server/codeq_server/"
    found = {
        path.removeprefix(server): set(rules.hand_made_keys(text))
        for path, text in _python().items()
        if path.startswith(tuple(f"{server}{package}/" for package in KEY_PACKAGES))
        and not path.endswith(("core/content_keys.py", "core/keys.py", "core/tenant_keys.py"))
    }
    assert {
        path: made for path, expressions in found.items() if (made := expressions - KEYS_ALONE.get(path, set()))
    } == {}


def test_no_file_names_a_package_registry() -> None:
    assert _found(_texts(), rules.registry_hosts) == []


def test_files_contain_no_paths_from_a_developers_machine() -> None:
    assert _found(_texts(but=lambda path: path.startswith(VENDORED)), rules.machine_paths) == []


def test_code_has_no_marks_of_unfinished_work() -> None:
    code = (".go", ".md", ".mk", ".proto", ".py", ".sh", ".toml", ".ts", ".yaml", "Dockerfile", "Makefile", "run")
    texts = {path: text for path, text in _texts(but=_is_generated).items() if path.endswith(code)}
    assert _found(texts, rules.unfinished_marks) == []


def test_no_test_is_skipped() -> None:
    tests = {path: text for path, text in _texts().items() if path.endswith((".py", ".go", ".ts")) and "test" in path}
    tests.pop("tests/tidy/rules.py")
    assert _found(tests, rules.skip_marks) == []


@pytest.mark.parametrize("call", [httpx.get, httpx.request, httpx.Client, httpx.AsyncClient])
def test_calls_without_a_bound_of_their_own_wait_for_a_busy_machine(call: Callable[..., object]) -> None:
    bound = httpx.Timeout(inspect.signature(call).parameters["timeout"].default)
    assert min(bound.connect or 0, bound.read or 0, bound.write or 0, bound.pool or 0) >= 30


@pytest.mark.parametrize("path", COMPILED_REQUIREMENTS)
def test_requirements_are_pinned_with_hashes(path: str) -> None:
    assert rules.unhashed_requirements((ROOT / path).read_text()) == []


def test_links_between_documents_resolve() -> None:
    documents = {path: text for path, text in _texts(but=_is_generated).items() if path.endswith(".md")}
    dead = [
        f"{path}: {target}"
        for path, text in documents.items()
        for target in rules.relative_links(text)
        if not (ROOT / path).parent.joinpath(target).exists()
    ]
    assert dead == []


def test_links_to_headings_resolve() -> None:
    documents = {path: text for path, text in _texts(but=_is_generated).items() if path.endswith(".md")}
    dead = [
        f"{path}: {target}#{anchor}"
        for path, text in documents.items()
        for target, anchor in rules.anchored_links(text)
        if anchor not in rules.anchors((ROOT / path).parent.joinpath(target).read_text() if target else text)
    ]
    assert dead == []


def test_readme_shows_how_to_start() -> None:
    assert "make run" in (ROOT / "README.md").read_text()


def test_licence_is_mit() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_ci_run_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_run_installs_every_tool_of_the_host_tests() -> None:
    [tools] = re.findall(r"^HOST_TOOLS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    [installed] = re.findall(r"^for tool in (.+); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert installed.split() == tools.split()


def test_contributing_names_every_tool_that_the_setup_checks() -> None:
    [tools] = re.findall(r"^TEST_TOOLS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    [named] = re.findall(r"^`make test` needs (.+)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert [tool for tool in tools.split() if not re.search(rf"\b{tool}\b", named)] == []


def _generated_modules() -> list[str]:
    roots = ("sdks/python/src/", "server/")
    return [
        path.removeprefix(root).removesuffix(".py").replace("/", ".")
        for path in TRACKED
        for root in roots
        if path.startswith(root) and path.endswith(("_pb2.py", "_pb2_grpc.py"))
    ]


@pytest.mark.parametrize("module", _generated_modules())
def test_generated_modules_can_be_imported(module: str) -> None:
    assert importlib.import_module(module)
