"""The file of static tokens: every way of replacing it is noticed, and nothing in its place does harm."""

from __future__ import annotations

import asyncio
import hashlib
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from codeq_server.auth.static import StaticToken, StaticValidator, digest_of
from codeq_server.auth.token_file import FILE_BYTES_MAX, TokenFile, TokenFileError, read_bounded


def parse(content: bytes) -> list[StaticToken]:
    """Returns the tokens of a list of texts."""
    try:
        return [StaticToken(text) for text in json.loads(content)]
    except ValueError as error:
        raise TokenFileError(f"is not JSON: {error}") from None


class Desk:
    """A file with the token "old", and what is noticed about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = b'["old"]'
        if not path.exists():
            path.write_bytes(content)
        self.validator = StaticValidator(*parse(content))
        self.reloads: list[tuple[int, int]] = []
        self.reported: asyncio.Queue[str] = asyncio.Queue()
        self.file = TokenFile(path, content, parse, self.validator, self)

    def reloaded(self, path: Path, count: int, changed: int) -> None:
        assert path == self.path
        self.reloads.append((count, changed))

    def unusable(self, path: Path, problem: str) -> None:
        assert path == self.path
        self.reported.put_nowait(problem)

    def look(self) -> list[str] | str | None:
        """Returns the tokens that a look found, or the problem; None: nothing is new."""
        found = self.file.look()
        if found.replacement is None:
            return found.problem or None
        self.validator.replace(found.replacement)
        return [name for name in ("old", "new", "two") if self.validator.validate(name)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "tokens.json")


def test_file_that_stays_as_it_was_is_nothing_new(desk: Desk) -> None:
    assert [desk.look() for _ in range(3)] == [None] * 3
    desk.path.touch()
    assert desk.look() is None
    desk.path.write_bytes(b'["old"]')
    assert desk.look() is None


def test_file_that_becomes_valid_again_is_reported_even_with_the_same_tokens(desk: Desk) -> None:
    for content in (b"[", None):
        if content is None:
            desk.path.unlink()
        else:
            desk.path.write_bytes(content)
        assert [isinstance(desk.look(), str), desk.look()] == [True, None]
        desk.path.write_bytes(b'["old"]')
        assert [desk.look(), desk.look()] == [["old"], None]


def test_settled_file_is_not_read_again(desk: Desk) -> None:
    past = time.time() - 3600
    os.utime(desk.path, (past, past))
    desk.look()
    access = desk.path.stat()
    moved = desk.path.with_name("moved")
    desk.path.rename(moved)
    assert "cannot read" in str(desk.look())
    moved.rename(desk.path)
    assert desk.look() == ["old"]
    assert desk.path.stat().st_ino == access.st_ino


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def renamed(path: Path, text: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def linked(path: Path, text: str) -> None:
    version = path.with_name(f"version-{time.monotonic_ns()}")
    version.write_text(text)
    link = path.with_name("link")
    link.symlink_to(version)
    link.replace(path)


@pytest.mark.parametrize("write", [in_place, renamed, linked])
def test_new_content_is_noticed_however_it_gets_there(desk: Desk, write: Callable[[Path, str], None]) -> None:
    desk.look()
    for name in ("new", "two", "old"):  # of the same length, and within one tick of the disk's clock
        write(desk.path, f'["{name}"]')
        assert desk.look() == [name]
        assert desk.look() is None


def test_content_that_changes_without_a_trace_soon_after_the_file_was_written_is_noticed(desk: Desk) -> None:
    with desk.path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[2:5] = b"old"  # from now on the page is dirty, and stores leave the file's times as they are
        assert desk.look() is None
        before = desk.path.stat()
        memory[2:5] = b"new"
        after = desk.path.stat()
        assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
        assert desk.look() == ["new"]


def test_folder_swapped_by_a_symbolic_link_is_noticed(tmp_path: Path) -> None:
    """As Kubernetes replaces the files of a secret: tokens.json -> ..data/tokens.json, ..data -> ..version."""
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
    (tmp_path / "..1" / "tokens.json").write_text('["old"]')
    (tmp_path / "..2" / "tokens.json").write_text('["new"]')
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tokens.json").symlink_to("..data/tokens.json")
    desk = Desk(tmp_path / "tokens.json")
    assert desk.look() is None
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").replace(tmp_path / "..data")
    assert desk.look() == ["new"]


def nothing(path: Path) -> None:
    path.unlink()


def half(path: Path) -> None:
    path.write_text('["new", "tw')


def empty(path: Path) -> None:
    path.write_text("")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def long(path: Path) -> None:
    path.write_bytes(b" " * (FILE_BYTES_MAX + 1))


def not_text(path: Path) -> None:
    path.write_bytes(b'["\xff\xfe"]')


@pytest.mark.parametrize("break_it", [nothing, half, empty, pipe, folder, device, loop, sparse, long, not_text])
def test_file_that_cannot_be_used_is_reported_once_and_read_again_when_it_can(
    desk: Desk, break_it: Callable[[Path], None]
) -> None:
    break_it(desk.path)
    began = time.monotonic()
    problem = desk.look()
    assert isinstance(problem, str)
    assert "\n" not in problem
    assert [desk.look() for _ in range(2)] == [None, None]
    assert time.monotonic() - began < 20
    if desk.path.is_dir():
        desk.path.rmdir()
    else:
        desk.path.unlink(missing_ok=True)
    desk.path.write_text('["new"]')
    assert desk.look() == ["new"]


def test_another_broken_content_is_reported_again(desk: Desk) -> None:
    problems = []
    for text in ("[", "[[", "[["):
        desk.path.write_text(text)
        problems.append(desk.look())
    assert [isinstance(problem, str) for problem in problems] == [True, True, False]


def test_file_that_may_not_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("[]")
    path.chmod(0)
    program = (
        "import os, sys, pathlib\n"
        "from codeq_server.auth.token_file import TokenFileError, read_bounded\n"
        "if os.geteuid() == 0:\n"
        "    os.setegid(65534); os.seteuid(65534)\n"
        "try:\n"
        "    read_bounded(pathlib.Path(sys.argv[1]))\n"
        "except TokenFileError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot read {path}: Permission denied\n"


def test_file_at_the_limit_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(b"[]".ljust(FILE_BYTES_MAX))
    assert len(read_bounded(path)) == FILE_BYTES_MAX


def test_keeper_replaces_tokens_announces_which_changed_and_reports(desk: Desk) -> None:
    async def test() -> None:
        revoked: asyncio.Queue[list[str]] = asyncio.Queue()

        async def revoke(affects: Callable[[str], bool]) -> None:
            revoked.put_nowait([token for token in ("old", "new", "other") if affects(token)])

        keeping = asyncio.create_task(desk.file.keep(revoke))
        try:
            async with asyncio.timeout(20):
                desk.path.write_text('["old", "new"]')
                assert await revoked.get() == ["new"]
                desk.path.write_text("[")
                assert await desk.reported.get()
                assert desk.validator.validate("old")
                desk.path.write_text('["new"]')
                assert await revoked.get() == ["old"]
        finally:
            keeping.cancel()
        assert desk.validator.validate("old") is None
        assert desk.reloads == [(2, 1), (1, 1)]
        assert desk.reported.empty()

    asyncio.run(test())


# -- tokens --------------------------------------------------------------------------------------------------------


def test_token_may_be_given_as_its_digest() -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    validator = StaticValidator(StaticToken("other"), StaticToken("", "s", token_sha256=digest))
    found = validator.validate("secret")
    assert found is not None
    assert found.subject == "s"
    assert validator.validate(digest) is None
    assert validator.validate("") is None
    assert "secret" not in repr(StaticToken("secret"))
    assert digest not in repr(StaticToken("", token_sha256=digest))


def test_replacing_tells_which_tokens_are_new_gone_or_changed() -> None:
    validator = StaticValidator(StaticToken("same"), StaticToken("gone"), StaticToken("changed"))
    after = [StaticToken("same"), StaticToken("changed", scopes=frozenset({"codeq:admin"})), StaticToken("new")]
    replacement = validator.compared(after)
    assert replacement.changed == {digest_of(text) for text in ("gone", "changed", "new")}
    validator.replace(replacement)
    assert validator.compared(reversed(after)).changed == set()
    assert validator.validate("gone") is None
    assert validator.validate("new")


def test_secret_with_any_characters_is_looked_up_and_not_taken_for_another() -> None:
    validator = StaticValidator(StaticToken("tok?"))
    assert validator.validate("tok\ud800") is None
    assert validator.validate("tok?")
