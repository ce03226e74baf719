"""Checks of a store on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.check import DIFFERENCES_MAX, check_store
from codeq_server.storage.durable import FILE_NAME
from codeq_server.storage.errors import StoreFailed
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.rocks import RocksStore


def write_store(path: Path, rows: dict[bytes, bytes | None], *, durable: int) -> None:
    store = RocksStore(path, fsync=True)
    save(store, next_identity(store, 1, 80, bytes(16)))
    store.write({keys.TICK: rows_pb2.TickRow(lsn=3).SerializeToString(), **rows})
    store.sync()
    store.note_durable(durable)
    store.close()


def test_check_of_an_intact_store_finds_nothing(tmp_path: Path) -> None:
    write_store(tmp_path / "s", {}, durable=3)
    differences, summary = check_store(tmp_path / "s")
    assert differences == []
    assert (summary.rows, summary.lsn, summary.differences) == (2, 3, 0)


def test_lost_durable_rows_are_reported_as_a_difference(tmp_path: Path) -> None:
    write_store(tmp_path / "s", {}, durable=4)
    differences, summary = check_store(tmp_path / "s")
    assert [difference.key for difference in differences] == [keys.TICK]
    assert summary.differences == 1


def test_differences_beyond_the_limit_are_counted_but_not_listed(tmp_path: Path) -> None:
    write_store(tmp_path / "s", {b"v%06d" % number: b"" for number in range(DIFFERENCES_MAX + 5)}, durable=3)
    differences, summary = check_store(tmp_path / "s")
    assert len(differences) == DIFFERENCES_MAX
    assert summary.differences == DIFFERENCES_MAX + 5
    assert str(differences[0]) == "v 303030303030: unknown prefix"


def test_damaged_side_file_is_reported_as_a_difference(tmp_path: Path) -> None:
    write_store(tmp_path / "s", {}, durable=3)
    (tmp_path / "s" / FILE_NAME).write_bytes(b"")
    differences, summary = check_store(tmp_path / "s")
    assert [difference.key for difference in differences] == [keys.TICK]
    assert (summary.rows, summary.differences) == (2, 1)


def test_check_of_a_path_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed):
        check_store(tmp_path / "file" / "s")


def test_check_of_a_missing_store_fails(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed):
        check_store(tmp_path / "s")
