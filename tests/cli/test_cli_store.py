"""codeq store check on stores that are not open, and on a store that a server has open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.layout import prepare_layout, shard_path
from codeq_server.storage.rocks import RocksStore
from recording_server import Run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store without tasks."""
    path = tmp_path / "store"
    opened = RocksStore(path, fsync=False)
    save(opened, next_identity(opened, 1, 0, b"r" * 16))
    opened.close()
    return path


def spoil(store: Path) -> None:
    opened = RocksStore(store, fsync=False)
    opened.write({b"?unknown": b"1"})
    opened.close()


def test_check_of_a_consistent_store_exits_with_code_0(run: Run, store: Path) -> None:
    done = run("store", "check", str(store))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (json.loads(done.stdout)["differences"], json.loads(done.stdout)["found"]) == (0, [])
    table = run("-o", "table", "store", "check", str(store))
    assert table.returncode == 0
    assert b"differences  0\n" in table.stdout


def test_check_of_inconsistent_rows_shows_each_key_and_exits_with_code_1(run: Run, store: Path) -> None:
    spoil(store)
    done = run("store", "check", str(store))
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["differences"]) == (1, len(summary["found"]))
    assert "? " + b"unknown".hex() in [each["key"] for each in summary["found"]]
    table = run("store", "check", str(store), "-o", "table").stdout.splitlines()
    assert table[0].startswith(b"? " + b"unknown".hex().encode() + b": ")


def test_check_of_a_store_in_use_is_rejected(run: Run, store: Path) -> None:
    opened = RocksStore(store, fsync=False)
    done = run("store", "check", str(store), "-o", "json")
    opened.close()
    assert (done.returncode, done.stdout) == (2, b"")
    assert json.loads(done.stderr)["reason"] == "STORE_UNUSABLE"
    assert run("store", "check", str(store)).returncode == 0


def test_check_of_a_missing_store_names_the_path(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in ("missing", "file"):
        done = run("store", "check", path)
        assert (done.returncode, done.stdout) == (2, b"")
        assert path.encode() in done.stderr
        assert done.stderr.endswith(b"(STORE_UNUSABLE)\n")


def test_check_of_several_shards_is_one_document_and_their_backup_names_each_folder(run: Run, tmp_path: Path) -> None:
    prepare_layout(tmp_path / "stores", 2)
    for shard in range(2):
        opened = RocksStore(shard_path(tmp_path / "stores", shard), fsync=False)
        save(opened, next_identity(opened, 2, 0, b"r" * 16, shard=shard))
        opened.close()
    done = run("store", "check", str(tmp_path / "stores"), "-o", "json")
    assert (done.returncode, [each["shard"] for each in json.loads(done.stdout)["shards"]]) == (0, [0, 1])
    refused = run("store", "backup", str(tmp_path / "stores"), str(tmp_path / "backup"))
    assert refused.returncode == 2
    assert b"stores of 2 shards" in refused.stderr + refused.stdout


def test_reshard_tells_what_it_did_and_progress_apart_from_it(run: Run, store: Path) -> None:
    done = run("store", "reshard", str(store), "--to", "2", "--from", "1", "-o", "json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["shards_before"], told["shards"], told["tasks"], told["moved"]) == (1, 2, 0, 0)
    assert b"checking the present store" in done.stderr
    assert Path(told["before"]).parent == store.parent
    assert run("store", "check", str(store)).returncode == 0
    assert run("store", "check", told["before"]).returncode == 0


def test_reshard_that_is_refused_says_why_and_exits_with_code_2(run: Run, store: Path, tmp_path: Path) -> None:
    for path, options, text in (
        (store, ("--to", "1"), b"numShards of"),
        (store, ("--to", "2", "--from", "4"), b"--from is 4"),
        (store, ("--to", "33"), b"it must be 1 to 32"),
        (tmp_path / "none", ("--to", "2"), b"there is no store at"),
    ):
        done = run("store", "reshard", str(path), *options)
        assert (done.returncode, done.stdout) == (2, b"")
        assert text in done.stderr
        assert done.stderr.endswith(b"(STORE_UNUSABLE)\n")
