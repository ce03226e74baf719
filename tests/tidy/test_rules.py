"""Each rule finds the violations it is meant to find: a rule that never matches would always pass."""

from __future__ import annotations

import pytest
import rules


@pytest.mark.parametrize(
    "host", ["pypi" + ".org", "files.pythonhosted" + ".org", "registry.npmjs" + ".org", "proxy.golang" + ".org"]
)
def test_registry_host_is_reported_with_its_line(host: str) -> None:
    assert rules.registry_hosts(f"first\nsee https://{host}/simple\n") == [f"2: see https://{host}/simple"]


def test_project_names_are_not_registry_hosts() -> None:
    assert rules.registry_hosts("https://go.dev/doc/install https://nodejs.org/en/download python.org") == []


def test_logged_text_that_is_no_name_is_reported() -> None:
    bad = '_LOG.warning("lost name=%s", name)\n_log.exception("it failed")\n_log.info(f"got {count}")'
    assert rules.wordy_events(bad) == ["lost name=%s", "it failed", "got "]
    good = '_log.warning("late" if x else "lost_it", reason="a b")\nlog.error("a b")\n_log.info(event)'
    assert rules.wordy_events(good) == []


@pytest.mark.parametrize("path", ["/" + "root/x", "/" + "home/ann/x", "cd /" + "work/main"])
def test_machine_path_is_reported_with_its_line(path: str) -> None:
    assert rules.machine_paths(path) == [f"1: {path}"]


@pytest.mark.parametrize("path", ["server/work/x", "a/root/b", "$DIR/" + "root/x", "/var/lib/codeq/store", "./data/"])
def test_project_paths_are_not_machine_paths(path: str) -> None:
    assert rules.machine_paths(path) == []


def test_mark_of_unfinished_work_is_reported_with_its_line() -> None:
    assert rules.unfinished_marks("x = 1  # TO" + "DO: more\nTodos = []") == ["1: x = 1  # TO" + "DO: more"]


@pytest.mark.parametrize(
    "line", ["@pytest.mark." + "skip", "pytest." + "skip('x')", "t." + "Skip()", "test." + "skip('x', f)"]
)
def test_skipped_test_is_reported_with_its_line(line: str) -> None:
    assert rules.skip_marks(line) == [f"1: {line}"]


def test_function_one_line_over_the_limit_is_reported() -> None:
    body = "".join(f"    x = {number}\n" for number in range(rules.FUNCTION_LINES_MAX))
    assert rules.long_functions(f"class A:\n    pass\n\nasync def f():\n{body}") == ["f: 71 lines"]
    assert rules.long_functions(f"def f():\n{body}".removesuffix("    x = 69\n")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import random",
        "import asyncio.queues",
        "datetime.datetime.now()",
        "uuid.uuid4()",
        "open('x')",
    ],
)
def test_impure_call_in_the_core_is_reported(source: str) -> None:
    assert len(rules.impurities(source)) == 1


def test_time_passed_as_an_argument_is_pure() -> None:
    assert rules.impurities("import uuid\ndef decide(now_ms: int) -> uuid.UUID: return uuid.UUID(int=now_ms)") == []


def test_vague_folder_or_module_name_is_reported() -> None:
    assert rules.vague_parts("server/utils/x.py") == ["utils"]
    assert rules.vague_parts("server/codeq/common.py") == ["common"]
    assert rules.vague_parts("server/codeq/commons_license.py") == []


def test_requirement_without_a_hash_or_pin_is_reported() -> None:
    text = "# made by\na==1 \\\n    --hash=sha256:00\n    # via b\nb==2\nc>=1 --hash=sha256:00\n"
    assert rules.unhashed_requirements(text) == ["b==2", "c>=1"]


def test_only_links_into_the_project_are_relative_links() -> None:
    assert rules.relative_links("[a](docs/x.md#y) [b](https://x.y/z) [c](#here)") == ["docs/x.md"]


def test_links_in_code_blocks_are_ignored() -> None:
    text = "```go\nfunc Call[Result any](ctx Context)\n```\n[a](b.md)\n```sh\n[c](d)\n```\n"
    assert rules.relative_links(text) == ["b.md"]


def test_links_to_headings_have_a_document_and_an_anchor() -> None:
    text = "[a](docs/x.md#y) [b](https://x.y/z.md#w) [c](#here) [d](e.md)"
    assert rules.anchored_links(text) == [("docs/x.md", "y"), ("", "here")]


def test_anchors_are_made_of_the_words_of_headings() -> None:
    text = "# `codeq bench`, a [load](x.md)\n## Sizes\n```sh\n# no heading\n```\n"
    assert rules.anchors(text) == {"codeq-bench-a-load", "sizes"}


@pytest.mark.parametrize(
    "source", ["lane.task_prefix + position.to_bytes(6, 'big')", "b't'", "scan(start, number.to_bytes(4, 'big') + end)"]
)
def test_hand_made_keys_returns_the_expression_that_builds_a_key(source: str) -> None:
    assert rules.hand_made_keys(source)


@pytest.mark.parametrize("source", ["keys.place_key(lane.task_prefix, position)", "key[1:] + b'\\0'", "b'\\xff'"])
def test_hand_made_keys_is_empty_for_keys_built_by_the_keys_module(source: str) -> None:
    assert rules.hand_made_keys(source) == []
