"""The store on disk with a log and imported rows: its files, exports, checks and backups."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.backup import back_up, restore
from codeq_server.storage.check import check_store
from codeq_server.storage.durable import read_durable
from codeq_server.storage.errors import StoreDamaged, StoreFailed
from codeq_server.storage.export import FILE_BYTES_MAX, MANIFEST, export
from codeq_server.storage.identity import load_identity, next_identity, save
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.reading import open_stored, stored_rows
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.rocks_options import make_options
from codeq_server.storage.store import LAST_KEY, LOG_PREFIX, ROWS_POINTER, WRITTEN
from rocksdict import Rdict

ENTRY = LOG_PREFIX + b"entry"


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def exported(path: Path, rows: dict[bytes, bytes | None]) -> list[Path]:
    """Returns the files exported from a store with these rows."""
    store = RocksStore(path, fsync=False)
    store.write(rows)
    store.checkpoint(path.with_suffix(".checkpoint"))
    store.close()
    export(path.with_suffix(".checkpoint"), path.with_suffix(".export"), [])
    return sorted(path.with_suffix(".export").glob("*.sst"))


def replaced(path: Path, rows: dict[bytes, bytes | None]) -> RocksStore:
    """Returns a store with a log, whose rows were imported from files."""
    store = RocksStore(path, fsync=True, log=True)
    store.write({b"old": b"1", ENTRY: b"e", WRITTEN: number(9)})
    store.switch_rows(store.import_rows(exported(path.with_name("source"), rows)), {})
    return store


def table_bytes(path: Path) -> int:
    return sum(size for _, size in tables(path))


def tables(path: Path) -> list[tuple[str, int]]:
    found = []
    for file in path.glob("*.sst"):
        try:
            found.append((file.name, file.stat().st_size))
        except FileNotFoundError:
            continue
    return found


def test_store_opened_without_a_log_has_one_column_family(tmp_path: Path) -> None:
    store = RocksStore(tmp_path, fsync=False)
    store.write({b"a": b"1"})
    with pytest.raises(StoreFailed, match="without a log"):
        store.write({b"b": b"2", ENTRY: b"3"})
    assert (store.get(b"b"), store.get(ENTRY), store.scan(LOG_PREFIX, LAST_KEY, 9)) == (None, None, [])
    store.close()
    assert Rdict.list_cf(str(tmp_path)) == ["default"]


def test_store_opened_without_its_log_reads_and_writes_all_rows(tmp_path: Path) -> None:
    replaced(tmp_path / "s", {b"new": b"1"}).close()
    store = RocksStore(tmp_path / "s", fsync=True)
    assert (store.get(b"new"), store.get(b"old"), store.get(ENTRY)) == (b"1", None, b"e")
    store.write({b"new": b"2", ENTRY: None})
    store.close()
    store = RocksStore(tmp_path / "s", fsync=True, log=True)
    assert (store.get(b"new"), store.get(ENTRY)) == (b"2", None)
    store.close()


def test_store_opened_with_a_log_keeps_its_earlier_rows(tmp_path: Path) -> None:
    store = RocksStore(tmp_path, fsync=True)
    store.write({b"a": b"1"})
    store.close()
    store = RocksStore(tmp_path, fsync=True, log=True)
    store.write({ENTRY: b"e"})
    assert (store.get(b"a"), store.get(ENTRY)) == (b"1", b"e")
    store.close()


def test_missing_current_rows_are_reported_as_damage(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=True, log=True)
    store.write({b"a": b"1", ROWS_POINTER: b"rows-5"})
    store.close()
    for _ in range(2):  # a failed opening releases the lock
        with pytest.raises(StoreDamaged, match="rows-5"):
            RocksStore(tmp_path / "s", fsync=True)
    with pytest.raises(StoreDamaged, match="rows-5"):
        list(stored_rows(tmp_path / "s"))


def test_flush_of_one_family_syncs_the_write_ahead_log_first(tmp_path: Path) -> None:
    """Otherwise, a power failure could preserve the deletion of an entry but lose the rows applied from it."""
    options = make_options()
    options.enable_statistics()
    store = RocksStore(tmp_path, fsync=True, log=True, options=options)

    def syncs() -> int:
        found = re.search(r"rocksdb\.wal\.synced COUNT : (\d+)", options.get_statistics() or "")
        assert found is not None
        return int(found[1])

    store.write({b"row": b"1", ENTRY: None})
    before = syncs()
    assert store._families.log is not None
    store._families.log.flush()
    assert syncs() == before + 1
    store.write({b"row": b"2", ENTRY: b"e"})
    assert syncs() == before + 1
    store.sync()
    assert syncs() == before + 2
    store.close()


def test_switch_rows_frees_the_space_of_the_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = RocksStore(path, fsync=False, log=True)
    large: dict[bytes, bytes | None] = {number(n): os.urandom(10_000) for n in range(300)}
    store.write(large)
    store.checkpoint(tmp_path / "flushed")
    for turn in range(2):  # switched from "default", which cannot be dropped, and from another set
        assert table_bytes(path) > 2_900_000
        store.switch_rows(store.import_rows([]), {})
        store.reclaim()
        deadline = time.monotonic() + 30
        while table_bytes(path) > 100_000:
            assert time.monotonic() < deadline
        if turn == 0:
            files = exported(tmp_path / "source", large)
            store.switch_rows(store.import_rows(files), {})
    assert store.scan(b"", LAST_KEY, 9) == []
    store.close()


def test_switch_rows_and_concurrent_checkpoints_do_not_affect_each_other(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=False, log=True)
    failures: list[BaseException] = []
    over = threading.Event()

    def back_up_again_and_again() -> None:
        try:
            for turn in count():
                if over.is_set():
                    return
                store.checkpoint(tmp_path / f"checkpoint-{turn}")
                store.reclaim()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    other = threading.Thread(target=back_up_again_and_again)
    other.start()
    value = os.urandom(200_000)
    for turn in range(40):
        store.write({number(n): value for n in range(20)} | {ENTRY: number(turn)})
        store.switch_rows(store.import_rows([]), {})
    over.set()
    other.join()
    assert failures == []
    store.close()
    for checkpoint in tmp_path.glob("checkpoint-*"):
        kept = {key for key, _ in stored_rows(checkpoint)}
        assert kept in (set(), {number(n) for n in range(20)})


def test_import_of_an_invalid_file_fails_and_leaves_nothing_behind(tmp_path: Path) -> None:
    files = exported(tmp_path / "source", {b"a": b"1"})
    (tmp_path / "bad.sst").write_bytes(b"nothing of the kind" * 100)
    store = RocksStore(tmp_path / "s", fsync=True, log=True)
    with pytest.raises(StoreFailed, match="import rows"):
        store.import_rows([*files, tmp_path / "bad.sst"])
    store.close()
    assert Rdict.list_cf(str(tmp_path / "s")) == ["default", "log"]
    assert [file.name for file in (tmp_path / "s").glob("*.sst")] == []


def test_filters_answer_gets_of_rows_absent_from_an_imported_set(tmp_path: Path) -> None:
    files = exported(tmp_path / "source", {number(2 * value): b"x" * 20 for value in range(20_000)})
    store = RocksStore(tmp_path / "s", fsync=False, log=True)
    store.switch_rows(store.import_rows(files), {})
    store.close()
    options = make_options()
    options.enable_statistics()
    store = RocksStore(tmp_path / "s", fsync=False, options=options)
    for value in range(5000):
        assert store.get(number(2 * value + 1)) is None
    statistics = options.get_statistics() or ""
    store.close()
    spared = re.search(r"rocksdb\.bloom\.filter\.useful COUNT : (\d+)", statistics)
    assert spared is not None
    assert int(spared[1]) > 4000


def test_next_opening_compares_with_the_number_from_reset_durable(tmp_path: Path) -> None:
    for fsync in (True, False):
        path = tmp_path / str(fsync)
        store = RocksStore(path, fsync=True)
        store.note_durable(900)
        store.close()
        store = RocksStore(path, fsync=fsync)
        with pytest.raises(StoreDamaged):
            store.check_recovered(5)
        store.reset_durable(5)
        assert read_durable(path) == 5
        store.check_recovered(5)
        store.note_durable(6)
        store.close()
        assert read_durable(path) == (6 if fsync else 5)


def test_stored_rows_are_the_current_set_without_the_log(tmp_path: Path) -> None:
    store = replaced(tmp_path / "s", {b"b": b"2", b"a": b"1"})
    store.write({b"c": b"3"})
    assert list(stored_rows(tmp_path / "s")) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    with open_stored(tmp_path / "s") as stored:
        assert (stored.get(b"c"), stored.get(ENTRY), stored.get(b"old")) == (b"3", b"e", None)
    store.close()


def shard_rows(lsn: int) -> dict[bytes, bytes | None]:
    """Returns the rows of an empty shard."""
    source = MemoryStore()
    save(source, next_identity(source, 1, 8_000_000, bytes(range(16))))
    identity = source.get(keys.IDENTITY)
    assert identity is not None
    return {keys.IDENTITY: identity, keys.TICK: rows_pb2.TickRow(lsn=lsn).SerializeToString()}


def test_check_of_a_store_with_a_log_compares_the_number_of_writes(tmp_path: Path) -> None:
    store = replaced(tmp_path / "s", shard_rows(lsn=3))
    store.note_durable(9)
    store.close()
    assert check_store(tmp_path / "s")[0] == []
    store = RocksStore(tmp_path / "s", fsync=True)
    store.note_durable(10)
    store.close()
    (difference,), summary = check_store(tmp_path / "s")
    assert "write 10" in str(difference)
    assert summary.differences == 1


def test_restore_of_a_members_backup_writes_the_current_rows_and_no_log(tmp_path: Path) -> None:
    store = replaced(tmp_path / "s", shard_rows(lsn=3))
    store.write({LOG_PREFIX + number(n): b"entry" for n in range(1000)})
    back_up(store, tmp_path / "backup", None)
    store.close()
    restore(tmp_path / "backup", tmp_path / "restored", 8_000_000, tmp_path / "artifacts")
    store = RocksStore(tmp_path / "restored", fsync=True)
    assert [key for key, _ in store.scan(LOG_PREFIX, LAST_KEY, 99)] == [ROWS_POINTER]
    assert [key for key, _ in store.scan(b"", LAST_KEY, 99)] == [keys.IDENTITY, keys.TICK]
    identity = load_identity(store)
    assert identity is not None
    assert identity.cluster_id != bytes(range(16))
    store.close()
    assert check_store(tmp_path / "restored")[0] == []


def test_export_of_many_rows_fills_one_file_after_another(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=False, log=True)
    noise = os.urandom(1 << 20)
    for n in range(70):
        store.write({number(n): noise, ENTRY + number(n): b"log"})
    store.checkpoint(tmp_path / "checkpoint")
    export(tmp_path / "checkpoint", tmp_path / "export", [ENTRY + number(3), ENTRY, number(1)])
    manifest = json.loads((tmp_path / "export" / MANIFEST).read_text())
    assert manifest["values"] == {(ENTRY + number(3)).hex(): b"log".hex(), number(1).hex(): noise.hex()}
    assert [file["name"] for file in manifest["files"]] == ["000001.sst", "000002.sst"]
    for file in manifest["files"]:
        content = (tmp_path / "export" / file["name"]).read_bytes()
        assert file["bytes"] == len(content) <= FILE_BYTES_MAX
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    store.switch_rows(store.import_rows(tmp_path / "export" / file["name"] for file in manifest["files"]), {})
    assert store.scan(b"", LAST_KEY, 99) == [(number(n), noise) for n in range(70)]
    store.close()


def test_export_of_a_killed_copy_includes_the_rows_of_its_write_ahead_log(tmp_path: Path) -> None:
    store = replaced(tmp_path / "s", {b"a": b"1"})
    store.write({b"b": b"2", ENTRY: b"f"})
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    store.close()
    command = [sys.executable, "-m", "codeq_server.storage.export"]
    done = subprocess.run([*command, tmp_path / "copy", tmp_path / "export", ENTRY.hex()], check=True)
    assert done.returncode == 0
    assert json.loads((tmp_path / "export" / MANIFEST).read_text())["values"] == {ENTRY.hex(): b"f".hex()}
    other = RocksStore(tmp_path / "other", fsync=False, log=True)
    other.switch_rows(other.import_rows((tmp_path / "export").glob("*.sst")), {})
    assert other.scan(b"", LAST_KEY, 9) == [(b"a", b"1"), (b"b", b"2")]
    other.close()


@pytest.mark.parametrize(("arguments", "code"), [(["x"], 2), (["x", "y", "no hex"], 2), (["missing", "new"], 1)])
def test_export_command_reports_bad_arguments(tmp_path: Path, arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "codeq_server.storage.export", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1


def test_export_reports_an_unreadable_block_as_damage_and_leaves_no_manifest(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=False)
    store.write({number(n): os.urandom(100) for n in range(20_000)})
    store.close()
    (file,) = (tmp_path / "s").glob("*.sst")
    content = bytearray(file.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 50] = bytes(byte ^ 0xFF for byte in content[middle : middle + 50])
    file.write_bytes(content)
    with pytest.raises(StoreDamaged):
        export(tmp_path / "s", tmp_path / "export", [])
    assert not (tmp_path / "export" / MANIFEST).exists()


def test_export_into_an_existing_folder_is_rejected(tmp_path: Path) -> None:
    RocksStore(tmp_path / "s", fsync=False).close()
    (tmp_path / "export").mkdir()
    with pytest.raises(StoreFailed, match="exist"):
        export(tmp_path / "s", tmp_path / "export", [])


def test_export_of_no_rows_writes_no_files(tmp_path: Path) -> None:
    RocksStore(tmp_path / "s", fsync=False).close()
    export(tmp_path / "s", tmp_path / "export", [ENTRY])
    assert json.loads((tmp_path / "export" / MANIFEST).read_text()) == {"files": [], "values": {}}
