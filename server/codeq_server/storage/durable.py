"""The side file of the durable LSN (file DURABLE in the store's directory).

RocksDB opens a damaged write-ahead log by silently truncating it at the damage. The durable LSN is therefore also
recorded here, so that the loss is noticed. The file holds two records of 20 bytes (magic, LSN, CRC-32) in separate
sectors, written alternately: a torn write damages at most one of them.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from .errors import StoreDamaged

FILE_NAME: Final = "DURABLE"
NOTE_SECONDS: Final = 1.0
"""Minimum time between two writes of the file; losses within this time can go unnoticed."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_RECORD = struct.Struct(">8sQI")
_MAGIC: Final = b"codeqlsn"
_SECTOR: Final = 512


def read_durable(directory: Path) -> int:
    """Returns the durable LSN recorded in a store's side file, 0 if there is no file.

    Raises:
        StoreDamaged: The file holds no valid record.
        OSError: The file cannot be read.
    """
    path = directory / FILE_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    records = _records(content)
    if not records:
        raise StoreDamaged(
            f"{path} is damaged, so a loss of rows cannot be detected; check the store with "
            "`codeq store check`, then restore a backup or remove the file"
        )
    return max(records)[0]


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable.

    Raises:
        OSError: The directory cannot be read or synced.
    """
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_file(path: Path) -> None:
    """Makes the content of a file durable.

    Raises:
        OSError: The file cannot be read or synced.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make_directory(path: Path) -> None:
    """Creates a directory and its missing parents, durably, because a lost store would look like a new one.

    Raises:
        OSError: A directory cannot be created.
    """
    missing = list(itertools.takewhile(lambda each: not each.is_dir(), (path, *path.parents)))
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        sync_directory(each.parent)


def tighten(directory: Path) -> None:
    """Denies other users access to a store's directory and its files.

    A directory with other contents is left unchanged. So are files of another owner, who decides who may read them.

    Raises:
        OSError: The directory cannot be read.
    """
    paths = list(directory.iterdir())
    if paths and not (directory / "CURRENT").is_file():
        return
    for path in (directory, *paths):
        status = path.lstat()
        is_ours = path is directory or stat.S_ISREG(status.st_mode)
        if is_ours and status.st_mode & _OTHERS:
            with suppress(PermissionError):
                path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)


def _records(content: bytes) -> list[tuple[int, int]]:
    """Returns LSN and slot of each valid record."""
    return [(lsn, slot) for slot in (0, 1) if (lsn := _parse(content[slot * _SECTOR :])) is not None]


def _record(lsn: int) -> bytes:
    body = _MAGIC + lsn.to_bytes(8, "big")
    return body + zlib.crc32(body).to_bytes(4, "big")


def _parse(content: bytes) -> int | None:
    if len(content) < _RECORD.size:
        return None
    magic, lsn, checksum = _RECORD.unpack_from(content)
    if magic != _MAGIC or checksum != zlib.crc32(content[:16]):
        return None
    return int(lsn)


class DurableMark:
    """Maintains the side file of an open store.

    Attributes:
        lsn: Durable LSN in the file when it was opened or last reset.
    """

    def __init__(self, directory: Path) -> None:
        self.lsn = read_durable(directory)
        self._directory = directory
        self._path = directory / FILE_NAME
        self._noted = self.lsn
        self._written = self.lsn
        self._next_write = 0.0
        if not self._path.exists():
            self._create(0)
        self._open()

    def _open(self) -> None:
        # The next record to write is the record without the last LSN.
        self._slot = 1 - max(_records(self._path.read_bytes()))[1]
        self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def note(self, lsn: int) -> None:
        """Records a durable LSN; writes it at most once in NOTE_SECONDS."""
        self._noted = lsn
        if time.monotonic() >= self._next_write:
            self._write()

    def reset(self, lsn: int) -> None:
        """Records a different LSN, which may be lower; durable on return."""
        os.close(self._file)
        self._file = -1
        self._create(lsn)
        self.lsn = self._noted = self._written = lsn
        self._open()

    def close(self) -> None:
        """Writes an LSN not yet written, and closes the file."""
        if self._file >= 0:
            try:
                self._write()
            finally:
                os.close(self._file)
                self._file = -1

    def _write(self) -> None:
        if self._noted != self._written:
            os.pwrite(self._file, _record(self._noted), self._slot * _SECTOR)
            os.fdatasync(self._file)
            self._slot = 1 - self._slot
            self._written = self._noted
        self._next_write = time.monotonic() + NOTE_SECONDS

    def _create(self, lsn: int) -> None:
        """Creates the file with both records, atomically and at full size, so that it stays writable on a full disk."""
        draft = self._path.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(_record(lsn).ljust(_SECTOR, b"\0") * 2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        sync_directory(self._directory)
