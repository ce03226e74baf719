"""The file of static tokens: read within bounds, and read again when it changes.

A change is noticed by the file's identity: device, inode, size and times of the file that the path leads to. So it does
not matter whether it is written in place, renamed over, or swapped by a symbolic link on the way, as Kubernetes does.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from codeq_server.auth.revocation import Affects, Revoke
from codeq_server.auth.static import Replacement, StaticToken, StaticValidator, digest_of

FILE_BYTES_MAX: Final = 8 << 20
"""Maximum size of the file."""

POLL_SECONDS: Final = 1.0
"""Interval between looks at the file."""

SETTLED_SECONDS: Final = 2.0
"""Age from which a file's identity proves its content: two writes in one tick of the disk's clock look alike."""

_PIECE_BYTES: Final = 1 << 20

_Identity = tuple[int, int, int, int, int]


class TokenFileError(Exception):
    """The file cannot be used. The text says why, in one line and without secrets."""


class TokenFileLog(Protocol):
    """Reports what happens to a file of tokens."""

    def reloaded(self, path: Path, count: int, changed: int) -> None:
        """The file was read again: it holds `count` tokens, of which so many were added, removed or changed."""
        ...

    def unusable(self, path: Path, problem: str) -> None:
        """The file cannot be used; the tokens read before remain valid."""
        ...


class Look(NamedTuple):
    """What a look at the file found: new tokens, or a problem; neither if nothing has changed."""

    replacement: Replacement | None = None
    problem: str = ""


def read_bounded(path: Path) -> bytes:
    """Returns the content of a file without waiting for a writer.

    Raises:
        TokenFileError: It cannot be read, is not a regular file, or is longer than FILE_BYTES_MAX.
    """
    try:
        # A named pipe would block the thread until someone writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TokenFileError(_unreadable(path, error)) from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise TokenFileError(f"{path} is not a regular file")
        pieces: list[bytes] = []
        size = about.st_size  # that of a sparse file, before any of it is read
        while size <= FILE_BYTES_MAX and (piece := os.read(descriptor, _PIECE_BYTES)):
            pieces.append(piece)
            size = max(size, sum(map(len, pieces)))
    except OSError as error:
        raise TokenFileError(_unreadable(path, error)) from None
    finally:
        os.close(descriptor)
    if size > FILE_BYTES_MAX:
        raise TokenFileError(f"{path} is longer than {FILE_BYTES_MAX} bytes")
    return b"".join(pieces)


class TokenFile:
    """Keeps a validator's tokens those of a file.

    Args:
        path: The file.
        content: Its content that the validator's tokens are from.
        parse: Returns the tokens of a content, or raises a TokenFileError.
        validator: Accepts the tokens.
        log: Reports changes and problems.
    """

    def __init__(
        self,
        path: Path,
        content: bytes,
        parse: Callable[[bytes], Sequence[StaticToken]],
        validator: StaticValidator,
        log: TokenFileLog,
    ) -> None:
        self._path = path
        self._parse = parse
        self._validator = validator
        self._log = log
        self._settled: _Identity | None = None
        """Identity of the file whose content was read last; None: it may change without changing its identity."""
        self._seen = _digest(content)
        """Digest of the content that was read last, usable or not; or why it could not be read."""

    async def keep(self, revoke: Revoke) -> None:
        """Looks at the file until it is cancelled; at once, since it may have changed since the configuration was read.

        A file that cannot be used changes nothing, and is reported once for each content or reason.
        """
        while True:
            found = await asyncio.to_thread(self.look)
            if found.problem:
                self._log.unusable(self._path, found.problem)
            elif found.replacement is not None:
                tokens, changed = found.replacement
                self._validator.replace(found.replacement)
                self._log.reloaded(self._path, len(tokens), len(changed))
                if changed:
                    await revoke(_among(changed))
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> Look:
        """Returns what is new about the file; blocks."""
        try:
            identity = _identity(self._path)
            if identity == self._settled:
                return Look()
            content = read_bounded(self._path)
        except TokenFileError as error:
            self._settled = None
            is_new, self._seen = str(error) != self._seen, str(error)
            return Look(problem=self._seen if is_new else "")
        is_old = time.time_ns() - max(identity[3:]) >= SETTLED_SECONDS * 1e9
        self._settled = identity if is_old else None
        digest = _digest(content)
        if digest == self._seen:
            return Look()
        self._seen = digest
        try:
            return Look(replacement=self._validator.compared(self._parse(content)))
        except TokenFileError as error:
            return Look(problem=str(error))


def _identity(path: Path) -> _Identity:
    """Returns what changes with a file's content: device, inode, size, and times of content and inode in nanoseconds.

    Raises:
        TokenFileError: The path leads to no file.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise TokenFileError(_unreadable(path, error)) from None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _unreadable(path: Path, error: OSError) -> str:
    return f"cannot read {path}: {error.strerror or error}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _among(digests: AbstractSet[bytes]) -> Affects:
    return lambda token: digest_of(token) in digests
