"""Behaviour required of every store, checked against a plain dictionary."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from codeq_server.storage.memory import CHUNK_KEYS_MAX, MemoryStore
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import LAST_KEY, LOG_PREFIX, Store
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

KEYS = st.binary(min_size=1, max_size=3) | st.binary(max_size=2).map(LOG_PREFIX.__add__)
ROWS = st.dictionaries(KEYS, st.none() | st.binary(max_size=8), max_size=12)

Maker = Callable[[], Store]


@contextmanager
def memory_maker() -> Iterator[Maker]:
    yield MemoryStore


@contextmanager
def rocks_maker() -> Iterator[Maker]:
    directory = Path(tempfile.mkdtemp())
    try:
        yield lambda: RocksStore(directory / "store", fsync=False, log=True)
    finally:
        shutil.rmtree(directory)


MAKERS = {"memory": memory_maker, "rocks": rocks_maker}


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with MAKERS[request.param]() as make:
        opened = make()
        yield opened
        opened.close()


class _StoreMachine(RuleBasedStateMachine):
    """Writes the same batches to a store and to a dictionary, and compares reads."""

    kind = "memory"

    @initialize()
    def open(self) -> None:
        self._context = MAKERS[self.kind]()
        self.make = self._context.__enter__()
        self.store = self.make()
        self.model: dict[bytes, bytes] = {}

    @rule(rows=ROWS)
    def write(self, rows: dict[bytes, bytes | None]) -> None:
        self.store.write(rows)
        for key, value in rows.items():
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = value

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.store.get(key) == self.model.get(key)

    @rule(start=st.binary(max_size=3), end=KEYS, limit=st.integers(1, 20))
    def scan(self, start: bytes, end: bytes, limit: int) -> None:
        expected = sorted(
            (key, value)
            for key, value in self.model.items()
            if start <= key < end and (key < LOG_PREFIX) == (start < LOG_PREFIX)
        )
        assert self.store.scan(start, end, limit) == expected[:limit]
        assert self.store.scan_back(start, end, limit) == expected[::-1][:limit]

    @rule()
    def sync(self) -> None:
        self.store.sync()

    @precondition(lambda self: self.kind == "rocks")
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.make()

    @invariant()
    def holds_the_model(self) -> None:
        rows = self.store.scan(b"", LAST_KEY, 10_000) + self.store.scan(LOG_PREFIX, LAST_KEY, 10_000)
        assert rows == sorted(self.model.items())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self._context.__exit__(None, None, None)


class MemoryMachine(_StoreMachine):
    kind = "memory"


class RocksMachine(_StoreMachine):
    kind = "rocks"


class TestMemoryMatchesDictionary(MemoryMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestRocksMatchesDictionary(RocksMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


def test_scan_of_an_empty_interval_returns_nothing(store: Store) -> None:
    store.write({b"a": b"1", b"b": b"2"})
    assert store.scan(b"b", b"b", 10) == []
    assert store.scan(b"b", b"a", 10) == []


def test_empty_write_changes_nothing(store: Store) -> None:
    store.write({})
    assert store.scan(b"", b"\xff", 10) == []


def test_value_put_at_a_deleted_key_is_read(store: Store) -> None:
    store.write({b"a": b"1"})
    store.write({b"a": None, b"missing": None})
    assert store.get(b"a") is None
    store.write({b"a": b""})
    assert store.get(b"a") == b""
    assert store.scan(b"a", b"b", 2) == [(b"a", b"")]


def test_scan_pages_through_many_rows_in_order(store: Store) -> None:
    keys = [(number * 7919 % 10_007).to_bytes(4, "big") for number in range(10_007)]
    for first in range(0, len(keys), 500):
        store.write(dict.fromkeys(keys[first : first + 500], b"value"))
    store.write(dict.fromkeys(sorted(keys)[100 : 2 * CHUNK_KEYS_MAX + 100]))
    kept = sorted(keys)[:100] + sorted(keys)[2 * CHUNK_KEYS_MAX + 100 :]
    found = []
    start = b""
    while page := store.scan(start, b"\xff", 256):
        found += [key for key, _ in page]
        start = page[-1][0] + b"\0"
    assert found == kept


def test_number_of_free_bytes_is_positive(store: Store) -> None:
    assert store.free_bytes() > 0


def test_second_close_does_nothing(store: Store) -> None:
    store.close()
    store.close()


def test_scan_while_another_thread_writes_sees_only_whole_batches(store: Store) -> None:
    """Each batch sets two rows to the same value, so a scan that sees two different values saw half a batch."""
    store.write({b"a": b"0", b"z": b"0"})
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(1, 2000):
                value = str(number).encode()
                middle: dict[bytes, bytes | None] = {b"m%04d" % (number % 7): value if number % 2 else None}
                store.write({b"a": value, **middle, b"z": value})
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        rows = dict(store.scan(b"", b"\xff", 100))
        assert rows[b"a"] == rows[b"z"]
    writer.join()
    assert not failures
    assert store.get(b"a") == b"1999"
