"""Checks of folders and their disks: can they be written, is there room, how fast and how true is fsync?"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codeq_server.config import Settings

from codeq_cli.doctor.findings import Finding, error, fine, warning

FOLDERS: Final = "folders"
SPACE: Final = "disk space"
FSYNC: Final = "fsync"

SYNCS: Final = 32
"""Number of writes of one block that are timed."""
SYNCS_SECONDS_MAX: Final = 3.0
"""Time after which no further write is timed."""
BLOCK_BYTES: Final = 4096
SLOW_SECONDS: Final = 0.02
"""Median of a fsync from which a disk is slow: somebody who creates one task after another gets below 50 per second."""
IMPLAUSIBLE_SECONDS: Final = 0.000_015
"""Median of a fsync below which nothing can have been written to a disk."""
FREE_PER_RESERVE: Final = 4
"""Free space from which there is room, as a multiple of `diskReserveBytes`."""
INODES_MIN: Final = 1_000

MOUNTS: Final = Path("/proc/self/mountinfo")
_IN_MEMORY: Final = {"tmpfs", "ramfs"}
_OF_CONTAINERS: Final = {"overlay", "aufs"}
_OVER_NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "afs"}
_WITHOUT_BARRIERS: Final = {"nobarrier", "barrier=0"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system.

    Attributes:
        point: Where it is mounted.
        kind: Its type, such as "ext4".
        options: Options of the mount and of the file system.
    """

    point: str
    kind: str
    options: frozenset[str]


def mount_of(path: Path, mounts: str) -> Mount | None:
    """Returns the file system of a path; None: it is not known.

    Args:
        path: An absolute path without links.
        mounts: Content of the kernel's file `mountinfo`.
    """
    found: Mount | None = None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        parts, rest = before.split(), after.split()
        if len(parts) < 6 or len(rest) < 3:
            continue
        point = parts[4].encode().decode("unicode_escape")
        if path.is_relative_to(point) and (found is None or len(point) >= len(found.point)):
            found = Mount(point, rest[0], frozenset([*parts[5].split(","), *rest[2].split(",")]))
    return found


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Yields findings about each folder that the server writes to."""
    store = settings.persistence.path
    folders = {
        "PERSISTENCE_CONFIG": store,
        "LOCAL_ARTIFACTS_DIR": settings.local_artifacts_dir,
        "BACKUP_DIR": settings.backup_dir,
        "READY_FILE": None if settings.ready_file is None else settings.ready_file.parent,
    }
    for name, folder in folders.items():
        if folder is None:
            continue
        if problem := _unwritable(folder):
            remedy = f"create it for the user of the server ({_user()}), or change {name}"
            yield error(FOLDERS, f"{name}: {folder} cannot be written: {problem}", remedy)
        else:
            yield fine(FOLDERS, f"{name}: {folder} can be written")
    inner = settings.backup_dir
    if store is not None and inner is not None and inner.absolute().is_relative_to(store.absolute()):
        text = f"BACKUP_DIR: {inner} lies in the folder of the store, {store}"
        yield error(FOLDERS, text, "name a folder beside the store, better on another disk")


def _user() -> str:
    return f"user {os.getuid()}, group {os.getgid()}"


def existing(folder: Path) -> Path:
    """Returns a folder, or the nearest one above it that exists.

    Raises:
        OSError: A name is too long, or a folder above may not be searched.
    """
    path = folder.absolute()
    while True:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
        else:
            return path.resolve()


def _unwritable(folder: Path) -> str:
    """Returns why a folder cannot be written or created; empty: it can."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder), prefix=".codeq-doctor-"):
            return ""
    except OSError as problem:
        return problem.strerror or str(problem)


def check_space(settings: Settings) -> Iterator[Finding]:
    """Yields a finding about the room on the store's disk."""
    path = settings.persistence.path
    if path is None:
        return
    try:
        disk = os.statvfs(existing(path))
    except OSError:
        return  # found with the folders
    free, reserve = disk.f_bavail * disk.f_frsize, settings.disk_reserve_bytes
    text = f"{_size(free)} are free on the disk of {path}"
    remedy = "enlarge the disk, remove old backups, or shorten RETENTION_SECONDS and DLQ_RETENTION_SECONDS"
    if free < reserve:
        yield error(SPACE, f"{text}: below DISK_RESERVE_BYTES, {_size(reserve)}, new tasks are rejected", remedy)
    elif free < reserve * FREE_PER_RESERVE:
        yield warning(SPACE, f"{text}, and below {_size(reserve)} new tasks are rejected", remedy)
    elif disk.f_files and disk.f_favail < INODES_MIN:
        yield error(SPACE, f"{disk.f_favail} files can still be created on the disk of {path}", "remove small files")
    else:
        yield fine(SPACE, text)


def check_fsync(settings: Settings) -> Iterator[Finding]:
    """Yields findings about the speed and the truth of fsync on the store's disk."""
    path = settings.persistence.path
    if path is None or not settings.persistence.fsync_on_commit:
        return
    try:
        folder = existing(path)
    except OSError:
        return  # found with the folders
    try:
        mounts = MOUNTS.read_text(errors="replace")
    except OSError:
        mounts = ""  # not Linux
    mount = mount_of(folder, mounts)
    lost = [] if mount is None else [*_untrue(path, mount)]
    yield from lost
    try:
        took = median_fsync(folder)
    except OSError:
        return  # found with the folders
    yield from judged(took, is_known_untrue=bool(lost))


def _untrue(path: Path, mount: Mount) -> Iterator[Finding]:
    """Yields findings about a file system that may lose what fsync has confirmed."""
    where = f"{path} is on {mount.kind} ({mount.point})"
    if mount.kind in _IN_MEMORY:
        remedy = "put the store on a disk: change `path` in PERSISTENCE_CONFIG"
        yield warning(FSYNC, f"{where}, which is memory: a restart of the machine loses every task", remedy)
    elif mount.kind in _OF_CONTAINERS:
        remedy = "mount a volume at the folder of the store"
        yield warning(FSYNC, f"{where}: the tasks are removed with the container", remedy)
    elif mount.kind in _OVER_NETWORK:
        remedy = "use a local disk or a block device; on NFS, the server's export must be sync, and locks must work"
        yield warning(FSYNC, f"{where}, over a network: fsync is slow, and as true as the other side", remedy)
    if off := sorted(mount.options & _WITHOUT_BARRIERS):
        text = f"{where} with {off[0]}: a power failure can lose what fsync has confirmed"
        yield error(FSYNC, text, f"mount it without {off[0]}, unless the disk's cache has a battery")


def median_fsync(folder: Path) -> float:
    """Returns the median time of writing a block and making it durable, in seconds.

    Raises:
        OSError: The folder cannot be written.
    """
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder, prefix=".codeq-doctor-", buffering=0) as file:
        end = time.monotonic() + SYNCS_SECONDS_MAX
        while len(times) < SYNCS and time.monotonic() < end:
            began = time.perf_counter()
            file.write(b"\0" * BLOCK_BYTES)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def judged(took: float, *, is_known_untrue: bool = False) -> Iterator[Finding]:
    """Yields a finding about the time of a fsync in seconds."""
    text = f"a block is written and confirmed in {took * 1000:.2f} ms (median)"
    if took >= SLOW_SECONDS:
        remedy = "use a disk with a faster fsync, such as an SSD with power loss protection: every reply waits for one"
        yield warning(FSYNC, f"{text}: the disk is slow", remedy)
    elif took < IMPLAUSIBLE_SECONDS and not is_known_untrue:
        remedy = "check the cache of the disk and of the virtual machine: a power failure may lose confirmed writes"
        yield warning(FSYNC, f"{text}, which is faster than a disk can be", remedy)
    else:
        yield fine(FSYNC, text)


def _size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} TiB"
