"""Files with the contents of artifacts, in a folder of their own, separate from the rows that refer to them.

A file is stored as ROOT/INSTALLATION/BUCKET/NAME. All parts are hexadecimal numbers: the store's installation id, the
upper and the lower part of the task's home, and a random number. No part of a path is chosen by a client. Each
component of a path is opened without following links, so nothing outside this folder is ever read or written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from .durable import make_directory, sync_directory, sync_file
from .errors import StoreLocked, StoreNotWritable

BUCKET_BYTES: Final = 9
"""Bytes of a home that name its bucket: each holds the files of 65536 places."""
TRIES: Final = 5
"""Maximum attempts to write into a bucket that is being emptied, and therefore removed, at the same time."""

_NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BUCKET: Final = re.compile(r"[0-9a-f]{18}")
_FILE: Final = re.compile(r"\.?([0-9a-f]{4})-([0-9a-f]{32})")


class ArtifactFiles:
    """The files of one store. Methods may be called on any thread.

    Args:
        root: The folder; created if missing.
        installation: Id of the store's installation.
        fsync: Whether `write` waits for the disk.
        reserve_bytes: Free space below which nothing is written.
        at_once: Whether to create a missing folder now; otherwise it is created with the first file.

    Raises:
        StoreLocked: Another process uses the folder for the same installation.
        StoreNotWritable: The folder cannot be created or written.
    """

    def __init__(
        self, root: Path, installation: bytes, *, fsync: bool, reserve_bytes: int, at_once: bool = True
    ) -> None:
        self.path = root / installation.hex()
        self._root = root
        self._fsync = fsync
        self._reserve_bytes = reserve_bytes
        self._making = Lock()
        self._made: int | None = None
        """The installation's folder, open; None: no folder exists, so there are no files."""
        if at_once or self.path.exists():
            self._made = self._make()
        else:
            nearest = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
            if not os.access(nearest, os.W_OK | os.X_OK):
                reason = f"this user cannot write to {nearest}: {os.strerror(errno.EACCES)}"
                raise StoreNotWritable(f"the folder of artifacts {root} cannot be used: {reason}")

    def _make(self) -> int:
        """Creates the folder if it is missing, and returns it open and locked."""
        try:
            make_directory(self._root)
            top = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(FileExistsError):
                    os.mkdir(self.path.name, 0o700, dir_fd=top)
                folder = os.open(self.path.name, _FOLDER, dir_fd=top)
                with suppress(PermissionError):  # another user's folder: its owner decides who may read it
                    os.fchmod(folder, 0o700)
                self._sync(top)
            finally:
                os.close(top)
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise StoreNotWritable(f"the folder of artifacts {self._root} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(folder)
            raise StoreLocked(
                f"the artifacts in {self.path} are in use by another process, which has the same store or a copy of it"
            ) from None
        return folder

    @property
    def _folder(self) -> int:
        """The folder of the installation.

        Raises:
            FileNotFoundError: The folder does not exist yet.
        """
        if self._made is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        return self._made

    def write(self, home: bytes, contents: Sequence[tuple[bytes, bytes]]) -> None:
        """Writes the files of one task, durably: pairs of name and content.

        Raises:
            OSError: Writing failed; some of the files may be there. ENOSPC: the disk is nearly full.
        """
        with self._making:
            if self._made is None:
                try:
                    self._made = self._make()
                except (StoreNotWritable, StoreLocked) as problem:
                    raise OSError(errno.EACCES, str(problem)) from problem
        disk = os.fstatvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._reserve_bytes + sum(len(content) for _, content in contents):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for _ in range(TRIES):
            with suppress(FileExistsError):
                os.mkdir(_bucket(home), 0o700, dir_fd=self._folder)
            with suppress(FileNotFoundError), self._open_bucket(home) as bucket:
                for file, content in contents:
                    self._write(bucket, _name(home, file), content)
                self._sync(bucket)
                self._sync(self._folder)
                return
        raise OSError(errno.EAGAIN, "the bucket keeps being removed")

    def adopt(self, installation: Path, old: bytes, home: bytes, file: bytes) -> bool:
        """Links or copies a file of another installation; returns whether it is there. `sync` makes it durable.

        Args:
            installation: Folder of the other installation.
            old: Home of the task there.
            home: Its home here.
            file: Name of the file.

        Raises:
            OSError: A file cannot be written.
        """
        try:
            source = os.open(installation / _bucket(old), _FOLDER)
        except FileNotFoundError:
            return False
        try:
            with suppress(FileExistsError):
                os.mkdir(_bucket(home), 0o700, dir_fd=self._folder)
            _copy_file(source, _name(old, file), self.path / _bucket(home) / _name(home, file))
        except FileNotFoundError:
            return False
        finally:
            os.close(source)
        return True

    def sync(self) -> None:
        """Makes the names of all files durable.

        Raises:
            OSError: A folder cannot be synced.
        """
        for entry in _names(self._folder):
            sync_directory(self.path / entry)
        self._sync(self._folder)

    def read(self, home: bytes, file: bytes, size: int) -> bytes:
        """Returns the content of a file; reads at most one byte more than `size`.

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: The file cannot be read.
        """
        with self._open_bucket(home) as bucket:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(_name(home, file), flags, dir_fd=bucket), "rb") as stored:
                if not stat.S_ISREG(os.fstat(stored.fileno()).st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                return stored.read(size + 1)

    def remove(self, gone: Sequence[tuple[bytes, bytes]]) -> None:
        """Removes files, complete or not, by home and name; a missing file is not an error.

        Raises:
            OSError: A file cannot be removed.
        """
        for home, file in gone:
            with suppress(FileNotFoundError):
                with self._open_bucket(home) as bucket:
                    for name in (_name(home, file), "." + _name(home, file)):
                        with suppress(FileNotFoundError):
                            os.unlink(name, dir_fd=bucket)
                with suppress(OSError):  # it holds other files
                    os.rmdir(_bucket(home), dir_fd=self._folder)

    def walk(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields home and name of every file, complete or not; skips foreign files.

        Raises:
            OSError: A folder cannot be read.
        """
        for entry in [] if self._made is None else _names(self._made):
            if _BUCKET.fullmatch(entry) is None:
                continue
            head = bytes.fromhex(entry)
            try:
                bucket = os.open(entry, _FOLDER, dir_fd=self._folder)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed in the meantime, or a link that codeq did not create
            try:
                names = _names(bucket)
            finally:
                os.close(bucket)
            for name in names:
                match = _FILE.fullmatch(name)
                if match is not None:
                    yield head + bytes.fromhex(match[1]), bytes.fromhex(match[2])

    def copy_to(self, target: Path) -> int:
        """Copies every complete file to a new folder, durably; returns their number. No file may be removed in between.

        Files are linked where the file system allows it, otherwise copied; linking is safe because a named file never
        changes.

        Raises:
            OSError: Copying failed.
        """
        target.mkdir(mode=0o700)
        count = 0
        for entry in [] if self._made is None else _names(self._made):
            if _BUCKET.fullmatch(entry) is None:
                continue
            copy = target / entry
            copy.mkdir(mode=0o700)
            bucket = os.open(entry, _FOLDER, dir_fd=self._folder)
            try:
                for name in _names(bucket):
                    if _FILE.fullmatch(name) is not None and not name.startswith("."):
                        _copy_file(bucket, name, copy / name)
                        count += 1
            finally:
                os.close(bucket)
            sync_directory(copy)
        sync_directory(target)
        return count

    def close(self) -> None:
        """Releases the folder; no other method may be called afterwards."""
        if self._made is not None:
            os.close(self._made)

    @contextmanager
    def _open_bucket(self, home: bytes) -> Iterator[int]:
        bucket = os.open(_bucket(home), _FOLDER, dir_fd=self._folder)
        try:
            yield bucket
        finally:
            os.close(bucket)

    def _write(self, bucket: int, name: str, content: bytes) -> None:
        """Writes a file under a name that marks it as incomplete, then renames it."""
        draft = "." + name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600, dir_fd=bucket), "wb") as file:
            file.write(content)
            file.flush()
            self._sync(file.fileno())
        os.rename(draft, name, src_dir_fd=bucket, dst_dir_fd=bucket)

    def _sync(self, descriptor: int) -> None:
        if self._fsync:
            os.fsync(descriptor)


def _bucket(home: bytes) -> str:
    return home[:BUCKET_BYTES].hex()


def _name(home: bytes, file: bytes) -> str:
    return f"{home[BUCKET_BYTES:].hex()}-{file.hex()}"


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _copy_file(folder: int, name: str, target: Path) -> None:
    try:
        os.link(name, target, src_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())


def restore_files(backup: Path, root: Path, installation: bytes) -> None:
    """Copies files made by `ArtifactFiles.copy_to` into a folder of artifacts, for a new installation.

    Raises:
        OSError: Copying failed, or the installation has files already.
    """
    make_directory(root)
    shutil.copytree(backup, root / installation.hex(), copy_function=shutil.copyfile)
    for folder, _, names in os.walk(root / installation.hex()):
        for name in names:
            sync_file(Path(folder, name))
        Path(folder).chmod(0o700)  # the backup may have another mode
        sync_directory(Path(folder))
    sync_directory(root)
