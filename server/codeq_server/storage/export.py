"""Exports the rows of a checkpoint as files that another store can import (`RowSets.import_rows`).

    python -m codeq_server.storage.export CHECKPOINT FOLDER [KEY...]

creates FOLDER with files of rows in key order, and then manifest.json. The manifest lists name, bytes and SHA-256 of
each file, and the values of those named keys (hexadecimal, usually rows of the log) that exist. Everything is durable
before the manifest appears. The export runs in a process of its own, because it reads and writes every row.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from rocksdict import SstFileWriter

from .durable import sync_directory, sync_file
from .errors import StoreError, StoreFailed, reason_of
from .reading import open_stored
from .rocks_options import make_options

FILE_BYTES_MAX: Final = 64 << 20
MANIFEST: Final = "manifest.json"

_ROW_BYTES: Final = 24
"""Maximum bytes that a row adds to a file beyond its key and value: numbers, filter, its share of the indexes."""
_CONTENT_BYTES: Final = 56 << 20
"""Bytes of rows at which a file is finished; even the largest row fits into the rest of FILE_BYTES_MAX."""


def export(checkpoint: Path, folder: Path, keys: Sequence[bytes]) -> None:
    """Exports a checkpoint.

    Args:
        checkpoint: The store to read; it must not change.
        folder: Folder to create.
        keys: Rows whose values go into the manifest.

    Raises:
        StoreError: The checkpoint cannot be read, or the folder exists or cannot be written.
    """
    try:
        folder.mkdir(mode=0o700)
        with open_stored(checkpoint) as stored:
            values = {key.hex(): value.hex() for key in keys if (value := stored.get(key)) is not None}
            files = _write_files(stored.rows(), folder)
        sync_directory(folder)
        draft = folder / f"{MANIFEST}.new"
        draft.write_text(json.dumps({"files": files, "values": values}))
        sync_file(draft)
        draft.replace(folder / MANIFEST)
        sync_directory(folder)
        sync_directory(folder.parent)
    except OSError as error:
        raise StoreFailed(f"could not write {folder}: {reason_of(error)}") from error


def _write_files(rows: Iterable[tuple[bytes, bytes]], folder: Path) -> list[dict[str, str | int]]:
    files: list[dict[str, str | int]] = []
    options = make_options()
    writer: SstFileWriter | None = None
    path, room = folder, 0
    try:
        for key, value in rows:
            if writer is None:
                path, room = folder / f"{len(files) + 1:06}.sst", _CONTENT_BYTES
                writer = SstFileWriter(options)
                writer.open(str(path))
            writer[key] = value
            room -= len(key) + len(value) + _ROW_BYTES
            if room <= 0:
                writer.finish()
                files.append(_described(path))
                writer = None
        if writer is not None:
            writer.finish()
            files.append(_described(path))
    except (StoreError, OSError):
        raise
    except Exception as error:
        raise StoreFailed(f"could not write {path}: {reason_of(error)}") from error
    return files


def _described(path: Path) -> dict[str, str | int]:
    """Makes a file durable and returns its entry in the manifest."""
    sync_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        checkpoint, folder, *keys = arguments
        names = [bytes.fromhex(key) for key in keys]
    except ValueError:
        print("usage: python -m codeq_server.storage.export CHECKPOINT FOLDER [KEY...]", file=sys.stderr)
        return 2
    try:
        export(Path(checkpoint), Path(folder), names)
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
