"""Env files are read by one grammar, on which the programs that read them agree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from codeq_cli import env_files
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
ENDINGS = ("*.env", "env.example", "*.default")

TEXTS = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=20)


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), TEXTS, max_size=4))
def test_what_is_written_is_read_again(variables: dict[str, str]) -> None:
    text = "# Settings.\n\n" + "".join(env_files.line(name, value) for name, value in variables.items())
    assert env_files.parsed(text) == variables


@settings(max_examples=20)
@given(TEXTS)
def test_a_shell_reads_what_is_written(value: str) -> None:
    script = f'{env_files.line("VALUE", value)}printf %s "$VALUE"'
    shown = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    assert shown.stdout == value


@pytest.mark.parametrize(
    "value",
    [
        '"double"',
        "'open",
        "'one' two",
        "$HOME",
        "`id`",
        "back\\slash",
        "value # comment",
        " leading",
        "trailing ",
    ],
)
def test_a_value_that_programs_read_differently_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2: A: ") as refused:
        env_files.parsed(f"B=1\nA={value}\n")
    assert value not in str(refused.value)


@pytest.mark.parametrize("text", ["export A=1\n", "A\n", "A =1\n", " A=1\n", "1A=1\n"])
def test_a_line_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line 1 is not NAME=value"):
        env_files.parsed(text)


def test_a_variable_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="line 3: A is there twice"):
        env_files.parsed("A=1\nB=\nA=2\n")


def test_quotes_are_refused_in_a_file_for_docker() -> None:
    assert env_files.parsed("A='1 2'\nB={\"a\":1}\n") == {"A": "1 2", "B": '{"a":1}'}
    with pytest.raises(ValueError, match="line 1: A: Docker"):
        env_files.parsed("A='1 2'\n", quotes=False)


def test_filling_keeps_comments_and_other_variables() -> None:
    filled = env_files.filled("# A=0\nA=\nB=2\n", {"A": "1 x", "C": "3"})
    assert filled == "# A=0\nA='1 x'\nB=2\n"


def test_a_value_of_several_lines_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="NAME"):
        env_files.line("NAME", "one\nTWO=2")


@pytest.mark.parametrize("path", [path for each in ENDINGS for path in sorted((ROOT / "deploy").rglob(each))])
def test_every_env_file_of_the_layouts_has_this_form(path: Path) -> None:
    assert env_files.read(path, quotes=path.suffix != ".env")
