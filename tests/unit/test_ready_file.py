"""The ready file: a server replaces and removes only a file that a server wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from codeq_server.node.summary import Ready, forget_ready_file, write_ready_file

NOWHERE = Ready(None, None, None)


@pytest.mark.parametrize("before", [None, "", json.dumps({"http": None, "pid": 1})])
def test_ready_file_is_created_or_replaces_one_written_by_a_server(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "ready"
    if before is not None:
        path.write_text(before)
    write_ready_file(path, NOWHERE)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    forget_ready_file(path)
    forget_ready_file(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["a letter", "[]", "{}", '{"pid": true}', "[" * 100_000])
def test_ready_file_never_replaces_or_removes_a_foreign_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "letter"
    path.write_text(content)
    with pytest.raises(FileExistsError, match="not a server's ready file"):
        write_ready_file(path, NOWHERE)
    forget_ready_file(path)
    assert path.read_text() == content


def test_ready_file_of_another_server_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "ready"
    write_ready_file(path, NOWHERE)
    of_another = json.dumps(json.loads(path.read_text()) | {"pid": 1})
    path.write_text(of_another)
    forget_ready_file(path)
    assert path.read_text() == of_another
