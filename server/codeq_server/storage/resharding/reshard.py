"""Changes the number of shards of the stores in a folder.

The new stores are made in a folder beside the old one and checked. Then the two folders are exchanged in one step, so
that the server finds either the old stores or the new ones, whole. The old stores stay until the operator removes them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codeq_internal.v1 import rows_pb2

from codeq_server.core import ids, keys
from codeq_server.core.errors import CorruptRows
from codeq_server.storage.artifacts import ArtifactFiles
from codeq_server.storage.backup import ARTIFACTS
from codeq_server.storage.check import check_store
from codeq_server.storage.durable import sync_directory, sync_file
from codeq_server.storage.errors import StoreDamaged, StoreError, StoreFailed, StoreFormat, StoreNotWritable, reason_of
from codeq_server.storage.identity import CLUSTER_ID_BYTES
from codeq_server.storage.layout import held_layout, mark_stores, shard_path, stored_shards
from codeq_server.storage.moved import Moved, write_moved
from codeq_server.storage.reading import open_stored
from codeq_server.storage.scratch import MARK, drop_scratch, take_scratch
from codeq_server.storage.store import LAST_KEY, LOG_PREFIX, ROWS_POINTER

from .references import ReferencePass
from .shared import finish_queues, limited_queues, move_shared, pinned_tasks, summed_tick
from .sources import Numbers, Source, align
from .switching import exchange
from .targets import Target
from .tasks import TaskPass

SPACE_FACTOR: Final = 2.5
"""Free space that is needed, as a multiple of the size of the present stores: each task may get one more row."""
SPACE_BYTES: Final = 256 << 20
"""Free space that is needed in addition."""

Say = Callable[[str], None]
"""Tells the operator about progress."""
Step = Callable[[str], None]
"""Called before each step that a crash may interrupt, with its name."""


@dataclass(frozen=True, slots=True)
class Resharded:
    """What was done.

    Attributes:
        shards_before: Number of shards before.
        shards: Number of shards now.
        tasks: Number of tasks.
        moved: Tasks with keys, of atomic batches and of schedules that live in another shard than that of their ids.
        leases_renewed: Running tasks whose workers cannot report about them, because another lease has the same token.
        subscriptions_dropped: Subscriptions that were left out, because several shards have none.
        artifacts_missing: Artifacts that rows refer to, but that have no file in the folder of artifacts.
        before: Folder with the stores as they were.
        artifacts_before: Folders with their artifacts, unless these are in that folder.
        artifacts: Folders with the artifacts of the new stores, unless these are beside them.
        seconds: Time for moving everything, without the checks.
    """

    shards_before: int
    shards: int
    tasks: int
    moved: int
    leases_renewed: int
    subscriptions_dropped: int
    artifacts_missing: int
    before: str
    artifacts_before: list[str]
    artifacts: list[str]
    seconds: float


class _Aside:
    """The folder beside the stores in which the new ones are made.

    While its contents are worthless it carries the mark of temporary files. The mark lists the folders elsewhere that
    are as worthless, separated by NUL, so that the next run can remove what an interrupted one left there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.staging = path.with_name(f"{path.name}.resharding")
        self.new = self.staging / "new"

    @property
    def is_draft(self) -> bool:
        """Whether its contents are worthless."""
        return (self.staging / MARK).exists()

    def check(self) -> None:
        """Checks that no earlier run was interrupted while it switched.

        Raises:
            StoreNotWritable: One was; the stores are whole.
        """
        if self.new.exists() and not self.is_draft:
            raise StoreNotWritable(
                f"{self.new} is left from a run that was interrupted while it switched. The server uses {self.path}, "
                f"which is whole, with numShards {stored_shards(self.path)}; {self.new} has numShards "
                f"{stored_shards(self.new)}. If that is the number from before, rename the folder to keep the old "
                "stores; otherwise remove it"
            )
        if self.staging.exists() and not any(self.staging.iterdir()):
            self.staging.rmdir()

    def spoil(self, elsewhere: Sequence[Path]) -> None:
        """Makes the new stores worthless, durably, together with folders of installations in other places."""
        draft = self.staging / f"{MARK}.new"
        draft.write_bytes(b"\0".join(map(os.fsencode, elsewhere)))
        sync_file(draft)
        draft.replace(self.staging / MARK)
        sync_directory(self.staging)

    def settle(self) -> None:
        """Makes the new stores worth keeping: from now on no run removes them."""
        for each in self.staging.iterdir():
            if each not in (self.new, self.staging / MARK):
                each.unlink()
        (self.staging / MARK).unlink()
        sync_directory(self.staging)

    def drop(self) -> None:
        """Removes the folder and what its mark lists, if its contents are worthless."""
        if self.is_draft:
            for each in (self.staging / MARK).read_bytes().split(b"\0"):
                if each:
                    shutil.rmtree(os.fsdecode(each), ignore_errors=True)
            drop_scratch(self.staging)

    def keep(self, before: Path, step: Step) -> None:
        """Keeps the old stores, which the exchange put here, under another name.

        Raises:
            StoreFailed: That failed. The new stores are in their place.
        """
        try:
            for parent in (self.path.parent, self.staging):
                sync_directory(parent)
            step("keep")
            self.new.rename(before)
            for parent in (self.path.parent, self.staging):
                sync_directory(parent)
            step("clean")
            self.staging.rmdir()
        except OSError as error:
            kept = self.new if self.new.exists() else before
            raise StoreFailed(
                f"{self.path} holds the new stores, and {kept} those from before; but a failure of the disk may undo "
                f"this when the machine stops: {reason_of(error)}"
            ) from error

    def before(self, shards: int, unix_seconds: int) -> Path:
        """Returns the name for the old stores."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_seconds))
        return self.path.with_name(f"{self.path.name}.before-{stamp}-{shards}")


def reshard(
    path: Path,
    to: int,
    *,
    expected: int = 0,
    artifacts: Path | None = None,
    say: Say = lambda _: None,
    free_bytes: Callable[[Path], int] | None = None,
    step: Step = lambda _: None,
) -> Resharded:
    """Changes the number of shards of the stores in a folder.

    Args:
        path: The folder.
        to: New number of shards, 1 to SHARDS_MAX.
        expected: Present number of shards; 0: any.
        artifacts: Folder of artifacts, before and after; None: the default ones.
        say: Tells the operator about progress.
        free_bytes: Returns the free space of a folder's file system.
        step: Called before each step that a crash may interrupt, with its name.

    Raises:
        StoreError: The stores cannot be resharded; they are unchanged, and in their place.
    """
    path = path.resolve()  # a link to a folder would be exchanged instead of the folder
    if not stored_shards(path):
        raise StoreFailed(f"there is no store at {path}")
    aside = _Aside(path)
    with ExitStack() as stack:
        stack.enter_context(held_layout(path))
        aside.check()
        aside.drop()
        shards = _shards_in(path, to, expected)
        stores = _stores(path, shards)
        for store in stores if shards > 1 else ():
            stack.enter_context(held_layout(store))
        try:
            _refuse_logs(stores)
            _check_space(path, free_bytes or _free_bytes)
            _check_all(stores, "present", say)
            named = None if artifacts is None else artifacts.absolute()
            if named is not None and not named.is_dir():
                raise StoreFailed(f"--artifacts is {named}, which is not a folder")
            roots = (named or _artifacts(path, shards), named or _artifacts(path, to))
            if named is None and to > 1:
                roots = (roots[0], aside.new / ARTIFACTS)
            before = _replace(aside, _Job(stores, to, aside, roots, say), step)
        except OSError as error:
            raise StoreFailed(f"could not use {error.filename or aside.staging}: {reason_of(error)}") from error
        except CorruptRows as error:
            raise StoreDamaged(str(error)) from error
    return before


def _replace(aside: _Aside, job: _Job, step: Step) -> Resharded:
    """Makes the new stores and puts them in the place of the old ones."""
    take_scratch(aside.staging)
    elsewhere = job.artifacts_elsewhere()
    try:
        aside.spoil(elsewhere)
        step("move")
        job.run()
        step("check")
        _check_all(_stores(aside.new, job.to), "new", job.say)
        before = aside.before(job.shards, int(time.time()))
        step("settle")
        aside.settle()
        step("switch")
        try:
            exchange(aside.path, aside.new)
        except StoreError:  # nothing was exchanged
            aside.spoil(elsewhere)
            raise
        aside.keep(before, step)
    except Exception:
        aside.drop()
        raise
    return job.result(before)


class _Job:
    """Makes new stores from the present ones.

    Args:
        stores: Folders of the present stores.
        to: Number of new stores.
        aside: Where to make them.
        roots: Present and new folder of artifacts.
        say: Tells the operator about progress.
    """

    def __init__(self, stores: Sequence[Path], to: int, aside: _Aside, roots: tuple[Path, Path], say: Say) -> None:
        self.shards, self.to, self.say = len(stores), to, say
        self._stores, self._aside, self._roots = stores, aside, roots
        self._installations = [os.urandom(CLUSTER_ID_BYTES) for _ in range(to)]
        self._moved = Moved()
        self._tasks = self._renewed = self._dropped = self._missing = 0
        self._seconds = 0.0
        self._files: dict[int, ArtifactFiles] = {}
        self._closing = ExitStack()
        self._old_files: list[str] = []

    def run(self) -> None:
        """Makes the stores, durably."""
        begun = time.monotonic()
        if self.to > 1:
            self._aside.new.mkdir(mode=0o700)
        with self._closing as stack:
            numbers = Numbers(self.shards, self.to)
            sources = []
            for shard, path in enumerate(self._stores):
                rows = stack.enter_context(open_stored(path))
                sources.append(Source(shard, numbers, rows, self._aside.staging / f"places{shard}"))
                stack.callback(sources[-1].places.close)
                folder = self._roots[0] / sources[-1].identity.cluster_id.hex()
                if folder.is_dir() and not folder.is_relative_to(self._aside.path):
                    self._old_files.append(str(folder))
            targets = [Target(shard, path) for shard, path in enumerate(_stores(self._aside.new, self.to))]
            for target in targets:
                stack.callback(target.store.close)
            self._move(sources, targets)
            for files in self._files.values():
                files.sync()
        if self.to > 1:
            write_moved(self._aside.new, self._moved)
            mark_stores(self._aside.new, self.to)
        self._seconds = time.monotonic() - begun

    def _move(self, sources: Sequence[Source], targets: Sequence[Target]) -> None:
        named = align(sources)
        total = sum(queue.row.created_total - queue.row.removed_total for each in named.values() for queue in each)
        tasks = TaskPass(
            targets,
            pinned_tasks(sources, self.to),
            limited_queues(sources),
            self._moved,
            lambda count: self.say(f"moved {count:,} of {total:,} tasks"),
        )
        for queues in named.values():
            tasks.move(queues)
        for shard, key, row in tasks.batches.rows():
            targets[shard].put(key, row.SerializeToString())
        self._tasks = tasks.count
        self.say(f"moved {tasks.count:,} tasks; moving the rows that refer to them")
        epoch = 1 + max(source.identity.epoch for source in sources)
        references = ReferencePass(targets, epoch, self._link)
        references.move(sources)
        self._renewed = references.leases_renewed
        self._dropped = move_shared(sources, targets, references.next_token)
        finish_queues(named, targets)
        last_queue = max(source.tick.last_queue for source in sources)
        if not sources[0].numbers.keeps:
            last_queue = len(named)
        tick = summed_tick(sources, last_queue)
        for target in targets:
            target.put(keys.TICK, tick.SerializeToString())
            target.put(keys.IDENTITY, self._identity(target.shard, epoch).SerializeToString())
            target.finish(tick.lsn)

    def _identity(self, shard: int, epoch: int) -> rows_pb2.IdentityRow:
        return rows_pb2.IdentityRow(
            format=keys.FORMAT,
            shard=shard,
            num_shards=self.to,
            cluster_id=self._installations[shard],
            epoch=epoch,
            resharded=True,
        )

    def _link(self, shard: int, source: Source, old: bytes, new: bytes, file: bytes) -> None:
        """Takes an artifact along.

        Raises:
            StoreFailed: There are no artifacts of its store at all.
        """
        present, root = self._roots
        folder = present / source.identity.cluster_id.hex()
        if not folder.is_dir():
            raise StoreFailed(
                f"a store refers to artifacts in {folder}, which is not there; name the "
                "folder of artifacts (LOCAL_ARTIFACTS_DIR) with --artifacts, or make that folder if they are lost"
            )
        files = self._files.get(shard)
        if files is None:
            files = self._files[shard] = ArtifactFiles(root, self._installations[shard], fsync=True, reserve_bytes=0)
            self._closing.callback(files.close)
        self._missing += not files.adopt(folder, old, new, file)

    def artifacts_elsewhere(self) -> list[Path]:
        """Returns the folders of new artifacts that are not within that of the new stores."""
        folders = [self._roots[1] / installation.hex() for installation in self._installations]
        return [each for each in folders if not each.is_relative_to(self._aside.staging)]

    def result(self, before: Path) -> Resharded:
        """Returns what was done."""
        return Resharded(
            self.shards,
            self.to,
            self._tasks,
            len(self._moved.hashes),
            self._renewed,
            self._dropped if self.to > 1 else 0,
            self._missing,
            str(before),
            self._old_files,
            [str(each) for each in self.artifacts_elsewhere()],
            round(self._seconds, 3),
        )


def _stores(path: Path, shards: int) -> list[Path]:
    return [path] if shards == 1 else [shard_path(path, shard) for shard in range(shards)]


def _artifacts(path: Path, shards: int) -> Path:
    return (path.parent if shards == 1 else path) / ARTIFACTS


def _shards_in(path: Path, to: int, expected: int) -> int:
    """Returns the number of shards in a folder.

    Raises:
        StoreError: It cannot be changed to this one.
    """
    shards = stored_shards(path)
    if not 1 <= to <= ids.SHARDS_MAX:
        raise StoreFormat(f"--to is {to}; it must be 1 to {ids.SHARDS_MAX}")
    if expected and expected != shards:
        raise StoreFormat(f"--from is {expected}, but numShards of {path} is {shards}")
    if to == shards:
        raise StoreFormat(f"--to is {to}, which is numShards of {path} already")
    return shards


def _refuse_logs(stores: Sequence[Path]) -> None:
    """Checks that no store is that of a member of a cluster.

    Raises:
        StoreError: One is, or cannot be read.
    """
    for store in stores:
        with open_stored(store) as stored:
            if any(key != ROWS_POINTER for key, _ in stored.scan(LOG_PREFIX, LAST_KEY, 2)):
                way_out = f"; to leave the cluster with this store, run `codeq cluster leave {store}`"
                raise StoreFormat(
                    f"the store {store} is that of a member of a cluster, whose number of shards cannot be changed"
                    + (way_out if len(stores) == 1 else "")
                )


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _check_space(path: Path, free_bytes: Callable[[Path], int]) -> None:
    files = [each for each in path.rglob("*") if ARTIFACTS not in each.relative_to(path).parts and each.is_file()]
    size = sum(each.stat().st_size for each in files)
    needed = int(SPACE_FACTOR * size) + SPACE_BYTES
    free = free_bytes(path.parent)
    if free < needed:
        raise StoreNotWritable(
            f"{path.parent} has {free:,} bytes of free space, but resharding needs {needed:,}: {SPACE_FACTOR} times "
            f"the size of the stores, and {SPACE_BYTES:,}"
        )


def _check_all(stores: Sequence[Path], which: str, say: Say) -> None:
    """Checks stores.

    Raises:
        StoreDamaged: Rows contradict each other.
        StoreError: A store cannot be read.
    """
    for store in stores:
        say(f"checking the {which} store {store}")
        differences, summary = check_store(store)
        if differences:
            raise StoreDamaged(
                f"the {which} store {store} has {summary.differences} differences; the first: {differences[0]}"
            )
