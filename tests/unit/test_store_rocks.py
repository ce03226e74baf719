"""The store on disk: which process may open it, which rows survive, and how damage is reported."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from codeq_server.storage.durable import FILE_NAME, read_durable
from codeq_server.storage.errors import StoreDamaged, StoreError, StoreFailed, StoreLocked, StoreNotWritable
from codeq_server.storage.reading import stored_rows
from codeq_server.storage.rocks import RECLAIM_BUSY_ROWS, RocksStore
from codeq_server.storage.rocks_options import make_options

ROWS = 1000


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def killed_copy(store: RocksStore, path: Path) -> Path:
    """Copies the files of an open store: the state after a killed process or a power failure."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    return copy


def fill(path: Path) -> tuple[RocksStore, Path]:
    """Writes ROWS synced batches of one row, then two unsynced batches; returns the store and its killed copy."""
    store = RocksStore(path, fsync=True)
    for lsn in range(1, ROWS + 1):
        store.write({number(lsn): b"row %d" % lsn})
    store.sync()
    store.note_durable(ROWS)
    store.write({number(ROWS + 1): b"not synced"})
    store.write({number(ROWS + 2): b"not synced"})
    return store, killed_copy(store, path)


def last_row(store: RocksStore) -> int:
    rows = store.scan(b"", b"\xff", ROWS + 10)
    assert [key for key, _ in rows] == [number(lsn) for lsn in range(1, len(rows) + 1)]
    return len(rows)


def log_of(path: Path) -> Path:
    (log,) = (file for file in path.glob("*.log") if file.stat().st_size)
    return log


def test_opening_creates_a_missing_directory_with_private_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    RocksStore(path, fsync=True).close()
    assert path.stat().st_mode & 0o777 == 0o700


def test_reopened_store_reads_its_rows(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=True)
    store.write({b"a": b"1"})
    store.close()
    store = RocksStore(tmp_path / "s", fsync=True)
    assert store.get(b"a") == b"1"
    store.close()


def test_opening_a_store_twice_in_one_process_is_rejected(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=True)
    with pytest.raises(StoreLocked):
        RocksStore(tmp_path / "s", fsync=True)
    store.close()


def test_opening_a_store_that_another_process_has_open_is_rejected(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from codeq_server.storage.rocks import RocksStore\n"
        "store = RocksStore(Path(sys.argv[1]), fsync=True); print('open', flush=True); sys.stdin.read(); store.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked, match="another process"):
            RocksStore(tmp_path / "s", fsync=True)
        other.communicate()
    assert other.returncode == 0
    RocksStore(tmp_path / "s", fsync=True).close()


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_opening_a_store_at_the_path_of_a_file_is_rejected(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritable) as refusal:
        RocksStore(tmp_path / path, fsync=True)
    assert str(tmp_path / path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_opening_a_store_in_an_unwritable_folder_is_rejected() -> None:
    with pytest.raises(StoreNotWritable):
        RocksStore(Path("/proc/codeq-store"), fsync=True)


def test_message_about_the_directory_of_another_user_says_so() -> None:
    script = (
        "import os, sys; from pathlib import Path; from codeq_server.storage.rocks import RocksStore\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "RocksStore(Path(sys.argv[1]), fsync=True)"
    )
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        path = Path(above) / "store"
        RocksStore(path, fsync=True).close()
        path.chmod(0o000)
        opened = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
        path.chmod(0o700)
    assert opened.stderr.endswith("/store cannot be used by this user: Permission denied\n")


def test_opening_an_unwritable_directory_is_rejected() -> None:
    with pytest.raises(StoreError):
        RocksStore(Path("/proc/self"), fsync=True)


def test_missing_row_file_is_reported_as_damage(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=True)
    store.write({b"a": b"1"})
    store.close()
    for file in (tmp_path / "s").glob("*.sst"):
        file.unlink()
    with pytest.raises(StoreDamaged):
        RocksStore(tmp_path / "s", fsync=True)


def test_scan_and_get_report_an_unreadable_block_as_damage(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=True)
    noise = [bytes((index * 31 + place * 17) % 251 for place in range(97)) for index in range(251)]
    store.write({number(index): noise[index % 251] + number(index) for index in range(2000)})
    store.close()
    (file,) = (tmp_path / "s").glob("*.sst")
    content = bytearray(file.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 50] = bytes(byte ^ 0xFF for byte in content[middle : middle + 50])
    file.write_bytes(content)
    store = RocksStore(tmp_path / "s", fsync=True)
    with pytest.raises(StoreDamaged):
        store.scan(b"", b"\xff", 5000)
    with pytest.raises(StoreDamaged):
        [store.get(number(index)) for index in range(2000)]
    store.close()


def test_killed_store_keeps_everything_written(tmp_path: Path) -> None:
    store, copy = fill(tmp_path / "s")
    opened = RocksStore(copy, fsync=True)
    assert last_row(opened) == ROWS + 2
    assert read_durable(copy) == ROWS
    opened.check_recovered(ROWS + 2)
    opened.close()
    store.close()


def test_torn_log_loses_only_what_was_not_synced(tmp_path: Path) -> None:
    store, copy = fill(tmp_path / "s")
    log = log_of(copy)
    log.write_bytes(log.read_bytes()[:-5])
    opened = RocksStore(copy, fsync=True)
    assert last_row(opened) == ROWS + 1
    opened.check_recovered(ROWS + 1)
    opened.close()
    store.close()


def test_log_with_a_zero_filled_tail_loses_nothing(tmp_path: Path) -> None:
    store, copy = fill(tmp_path / "s")
    log = log_of(copy)
    log.write_bytes(log.read_bytes() + bytes(100_000))
    opened = RocksStore(copy, fsync=True)
    assert last_row(opened) == ROWS + 2
    opened.check_recovered(ROWS + 2)
    opened.close()
    store.close()


def test_damage_in_the_middle_of_the_log_is_reported(tmp_path: Path) -> None:
    store, copy = fill(tmp_path / "s")
    log = log_of(copy)
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0x40
    log.write_bytes(content)
    opened = RocksStore(copy, fsync=True)
    recovered = last_row(opened)
    assert 0 < recovered < ROWS
    with pytest.raises(StoreDamaged, match=FILE_NAME):
        opened.check_recovered(recovered)
    opened.close()
    store.close()


def test_durable_batch_is_recorded_at_most_once_a_second(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=True)
    store.note_durable(1)
    started = time.monotonic()
    assert read_durable(tmp_path / "s") == 1
    writes = 0
    lsn = 1
    while time.monotonic() < started + 1.5:
        lsn += 1
        store.note_durable(lsn)
        writes += read_durable(tmp_path / "s") == lsn
    assert 1 <= writes <= time.monotonic() - started
    store.close()
    assert read_durable(tmp_path / "s") == lsn


def test_note_durable_records_nothing_without_fsync(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=False)
    store.write({b"a": b"1"})
    store.sync()
    store.note_durable(9)
    store.close()
    assert read_durable(tmp_path / "s") == 0


def test_side_file_with_one_torn_record_is_read_from_the_other(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for lsn in (5, 6):
        store = RocksStore(path, fsync=True)
        store.note_durable(lsn)
        store.close()
    store = RocksStore(path, fsync=True)
    assert read_durable(path) == 6
    store.note_durable(7)
    content = (path / FILE_NAME).read_bytes()
    store.close()
    for torn, remembered in ((0, 6), (512, 7)) if content[15] == 7 else ((512, 6), (0, 7)):
        spoilt = bytearray(content)
        spoilt[torn + 8 : torn + 16] = bytes(8)
        (path / FILE_NAME).write_bytes(spoilt)
        assert read_durable(path) == remembered


def test_opening_reports_a_side_file_without_a_valid_record_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "s"
    RocksStore(path, fsync=True).close()
    (path / FILE_NAME).write_bytes(bytes(1024))
    with pytest.raises(StoreDamaged, match=FILE_NAME):
        RocksStore(path, fsync=True)
    (path / FILE_NAME).unlink()
    RocksStore(path, fsync=True).close()


def test_rejected_write_to_a_stalled_database_is_retried_without_loss(tmp_path: Path) -> None:
    """Tiny buffers keep RocksDB busy, so it rejects writes instead of blocking while it holds the interpreter lock."""
    options = make_options(write_buffer_bytes=64 << 10)
    options.set_max_write_buffer_number(2)
    options.set_level_zero_slowdown_writes_trigger(2)
    options.set_level_zero_stop_writes_trigger(4)
    store = RocksStore(tmp_path / "s", fsync=True, options=options)
    refused = 0
    attempt = store._try_write

    def counted(rows: dict[bytes, bytes | None]) -> bool:
        nonlocal refused
        written = attempt(rows)
        refused += not written
        return written

    store._try_write = counted  # type: ignore[method-assign, assignment]
    noise = random.Random(1).randbytes(100_000)
    for batch in range(150):
        store.write({number(batch * 100 + index): noise[index * 90 : index * 90 + 1000] for index in range(100)})
    assert refused > 0
    assert len(store.scan(b"", b"\xff", 20_000)) == 15_000
    store.close()


def test_write_after_close_fails(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=True)
    store.close()
    with pytest.raises(StoreFailed):
        store.write({b"a": b"1"})
    with pytest.raises(StoreFailed):
        store.sync()
    with pytest.raises(StoreFailed):
        store.get(b"a")


def test_stored_rows_reads_an_open_store_without_changing_its_files(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = RocksStore(path, fsync=True)
    expected = [(number(index), b"v") for index in range(3000)]
    store.write(dict(expected))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert list(stored_rows(path)) == expected
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    store.close()


def test_stored_rows_fails_if_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed):
        list(stored_rows(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_filters_answer_gets_of_absent_rows(tmp_path: Path) -> None:
    RocksStore(tmp_path, fsync=False, options=make_options()).close()
    options = make_options(write_buffer_bytes=64 << 10)
    options.enable_statistics()
    store = RocksStore(tmp_path, fsync=False, options=options)
    for first in range(0, 20_000, 1000):
        store.write({number(2 * value): b"x" * 20 for value in range(first, first + 1000)})
    store.close()  # flushes memory to files
    store = RocksStore(tmp_path, fsync=False, options=options)
    for value in range(5000):
        assert store.get(number(2 * value + 1)) is None
    statistics = options.get_statistics() or ""
    store.close()
    spared = re.search(r"rocksdb\.bloom\.filter\.useful COUNT : (\d+)", statistics)
    assert spared is not None
    assert int(spared[1]) > 4000


def table_bytes(path: Path) -> int:
    total = 0
    for file in path.glob("*.sst"):
        with contextlib.suppress(FileNotFoundError):  # removed by a compaction during the walk
            total += file.stat().st_size
    return total


def test_reclaim_after_many_deletes_frees_their_space(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=False)
    store.write({number(n): os.urandom(10_000) for n in range(200)})
    store.checkpoint(tmp_path / "flushed")
    assert table_bytes(tmp_path / "s") > 1_900_000
    store.write({number(n): None for n in range(190)})
    store.reclaim()
    deadline = time.monotonic() + 30
    while table_bytes(tmp_path / "s") > 300_000:
        assert time.monotonic() < deadline
    assert [key for key, _ in store.scan(b"", b"\xff", 1000)] == [number(n) for n in range(190, 200)]
    store.close()


@pytest.mark.parametrize(("rows", "deletes"), [(10_000, 500), (60, 60)])
def test_reclaim_after_few_deletes_leaves_the_files_alone(tmp_path: Path, rows: int, deletes: int) -> None:
    store = RocksStore(tmp_path / "s", fsync=False)
    store.write({number(n): b"row" for n in range(rows)})
    store.checkpoint(tmp_path / "flushed")
    store.write({number(n): None for n in range(deletes)})
    before = sorted(file.name for file in (tmp_path / "s").glob("*.sst"))
    store.reclaim()
    assert sorted(file.name for file in (tmp_path / "s").glob("*.sst")) == before
    store.close()


def test_reclaim_leaves_the_files_of_a_busy_store_alone_until_it_is_idle(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", fsync=False)
    store.write({b"kept": b"row"} | {number(n): b"row" for n in range(RECLAIM_BUSY_ROWS)})
    store.write({number(n): None for n in range(RECLAIM_BUSY_ROWS)})
    store.reclaim()
    assert not list((tmp_path / "s").glob("*.sst"))
    store.reclaim()
    assert list((tmp_path / "s").glob("*.sst"))
    assert store.get(b"kept") == b"row"
    store.close()
