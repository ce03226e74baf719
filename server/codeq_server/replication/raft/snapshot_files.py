"""Files of an incoming snapshot: their location, the parts still missing, and their integrity.

The files are in INCOMING/SNAPSHOT, where SNAPSHOT consists of the group's number and a digest of the manifest. Files
found when a transfer restarts therefore belong to the same snapshot. A file gets its name once its digest is verified;
until then it is called ".part".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from codeq_server.storage.durable import sync_directory

from .wire import Refused

MANIFEST: Final = "manifest.json"
MANIFEST_BYTES_MAX: Final = 4 << 20
FILES_MAX: Final = 20_000
FILE_BYTES_MAX: Final = 1 << 40
CHUNK_BYTES: Final = 512 << 10
"""Maximum bytes in one part of a file."""

_PART: Final = ".part"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}(\.[A-Za-z0-9]{1,20})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file listed in a manifest: its name in the folder, its length and its SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


def read_manifest(content: bytes) -> list[SnapshotFile]:
    """Returns the files listed in a manifest.

    Raises:
        Refused: The manifest is malformed, or lists a file that cannot belong to a snapshot.
    """
    if len(content) > MANIFEST_BYTES_MAX:
        raise _malformed(f"longer than {MANIFEST_BYTES_MAX} bytes")
    try:
        listed = json.loads(content)["files"]
        files = [SnapshotFile(entry["name"], entry["bytes"], entry["sha256"]) for entry in listed]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise _malformed('not JSON with "files" of name, bytes and sha256') from None
    if len(files) > FILES_MAX:
        raise _malformed(f"more than {FILES_MAX} files")
    for number, file in enumerate(files):
        if not isinstance(file.name, str) or not _NAME.fullmatch(file.name) or file.name == MANIFEST:
            raise _malformed(f"files[{number}].name: not a valid name")
        if type(file.bytes) is not int or not 0 < file.bytes <= FILE_BYTES_MAX:
            raise _malformed(f"files[{number}].bytes: not 1 to {FILE_BYTES_MAX}")
        if not isinstance(file.sha256, str) or not _SHA256.fullmatch(file.sha256):
            raise _malformed(f"files[{number}].sha256: not a SHA-256 in lower-case hexadecimal digits")
    if len({file.name for file in files}) < len(files):
        raise _malformed("the same name twice")
    return files


def remove_folders(incoming: Path, group: int, *, but: str = "") -> None:
    """Removes received files of a group's snapshots, except the folder named `but`."""
    for path in incoming.glob(f"{group:08x}-*"):
        if path.name != but:
            shutil.rmtree(path, ignore_errors=True)


class IncomingFiles:
    """The files of one snapshot during its transfer. Methods block and are called one at a time.

    Args:
        incoming: Folder of all incoming snapshots.
        group: Group of the snapshot.
        manifest: Manifest of the snapshot.
        reserve_bytes: Free space to leave on the disk.

    Attributes:
        folder: Folder of the files.
        file: Number of the next file.
        offset: Offset of the next part in it.
        taken: Bytes written since `begin`.
    """

    def __init__(self, incoming: Path, group: int, manifest: bytes, reserve_bytes: int) -> None:
        self.folder = incoming / f"{group:08x}-{hashlib.sha256(manifest).hexdigest()[:32]}"
        self.file = 0
        self.offset = 0
        self.taken = 0
        self._group = group
        self._manifest = manifest
        self._reserve_bytes = reserve_bytes
        self._files: Sequence[SnapshotFile] = ()
        self._digest = hashlib.sha256()

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.file == len(self._files)

    def begin(self) -> None:
        """Finds files that are already there, and removes files of other snapshots of the group.

        Raises:
            Refused: The manifest is malformed, or the disk lacks space.
            OSError: The folder cannot be used.
        """
        self._files = read_manifest(self._manifest)
        remove_folders(self.folder.parent, self._group, but=self.folder.name)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        while not self.whole and (self.folder / self._files[self.file].name).exists():
            self.file += 1
        missing = sum(file.bytes for file in self._files[self.file :])
        if not self.whole:
            self._resume()
        disk = os.statvfs(self.folder)
        if disk.f_bavail * disk.f_frsize < missing - self.offset + self._reserve_bytes:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the disk has no room for the {missing - self.offset} missing bytes",
            )

    def write(self, file: int, offset: int, content: bytes) -> None:
        """Appends a part.

        Raises:
            Refused: The part is not the next part, or its file does not match the manifest and was removed.
            OSError: The part cannot be written.
        """
        if (file, offset) != (self.file, self.offset):
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"chunk: file {file}, offset {offset} came instead of {self.file}, {self.offset}",
            )
        expected = self._files[file]
        if not 0 < len(content) <= min(CHUNK_BYTES, expected.bytes - offset):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"chunk.content: {len(content)} bytes were not requested")
        part = self.folder / _PART
        with part.open("ab", buffering=0) as out:
            rest = memoryview(content)
            while rest:
                rest = rest[out.write(rest) :]
            self._digest.update(content)
            self.offset += len(content)
            self.taken += len(content)
            if self.offset < expected.bytes:
                return
            os.fsync(out.fileno())
        if self._digest.hexdigest() != expected.sha256:
            part.unlink()
            raise Refused(grpc.StatusCode.DATA_LOSS, f"{expected.name} does not have the SHA-256 in the manifest")
        part.rename(self.folder / expected.name)
        self.file += 1
        self.offset = 0
        self._digest = hashlib.sha256()

    def end(self) -> None:
        """Makes a complete snapshot durable, together with its manifest.

        Raises:
            OSError: The snapshot cannot be made durable.
        """
        with (self.folder / MANIFEST).open("wb") as out:
            out.write(self._manifest)
            out.flush()
            os.fsync(out.fileno())
        sync_directory(self.folder)

    def _resume(self) -> None:
        """Resumes a partial file, if it can be the beginning of the next file."""
        part = self.folder / _PART
        with suppress(FileNotFoundError), part.open("rb") as begun:
            size = os.fstat(begun.fileno()).st_size
            if size >= self._files[self.file].bytes:
                part.unlink()
                return
            while self.offset < size and (content := begun.read(min(_READ_BYTES, size - self.offset))):
                self._digest.update(content)
                self.offset += len(content)


def _malformed(why: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, f"manifest: {why}")
