"""Makes snapshots: a checkpoint of the store, exported to files of rows by a separate process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from codeq_internal.v1 import raft_rows_pb2

from codeq_server.storage.errors import StoreFailed
from codeq_server.storage.store import RowSets

from .log_rows import GroupKeys, read_applied
from .ports import Made
from .threads import in_thread

ERROR_CHARS_MAX: Final = 2000
INHERITED: Final = ("PATH", "HOME", "LANG", "LC_", "LD_", "TZ", "TMPDIR", "PYTHON", "VIRTUAL_ENV")
"""Prefixes of the environment variables passed to the snapshot process."""


class SnapshotMaker:
    """Makes snapshots of a group's rows.

    Args:
        row_sets: Sets of rows of the store.
        group: Keys of the group.
        folder: Folder in which snapshots are kept. It must be empty or missing at first, and on the disk of the store,
            so that files can be linked.

    Attributes:
        made: Snapshots made so far.
        made_at: When the last snapshot was made, on the monotonic clock.
    """

    def __init__(self, row_sets: RowSets, group: GroupKeys, folder: Path) -> None:
        self._row_sets, self._keys, self._folder = row_sets, group, folder
        self._number = 0
        self.made = 0
        self.made_at = 0.0

    async def make(self) -> Made:
        """Returns a new snapshot, with everything written before this call.

        Raises:
            StoreError: The store or its disk failed.
        """
        self._number += 1
        folder = self._folder / str(self._number)
        try:
            return await self._make(folder)
        except BaseException:
            await in_thread(shutil.rmtree, folder, ignore_errors=True)  # frees the space on a full disk
            raise

    async def _make(self, folder: Path) -> Made:
        checkpoint, files = folder / "checkpoint", folder / "files"
        await in_thread(_make_folder, folder)
        await in_thread(self._row_sets.checkpoint, checkpoint)
        keys = self._keys
        wanted = [key.hex() for key in (keys.applied, keys.conf_state, keys.members)]
        await _export(checkpoint, files, wanted)
        await in_thread(shutil.rmtree, checkpoint, ignore_errors=True)
        content = json.loads(await in_thread((files / "manifest.json").read_bytes))
        applied, conf_state, members = (bytes.fromhex(content["values"][key]) for key in wanted)
        index, term, lsn = read_applied(applied)
        data = raft_rows_pb2.SnapshotData(lsn=lsn, members=raft_rows_pb2.MembersRow.FromString(members))
        loop = asyncio.get_running_loop()

        def remove() -> None:
            loop.run_in_executor(None, lambda: shutil.rmtree(folder, ignore_errors=True))

        self.made += 1
        self.made_at = time.monotonic()
        return Made(files, index, term, conf_state, data.SerializeToString(), remove)


async def _export(checkpoint: Path, files: Path, wanted: Sequence[str]) -> None:
    """Exports a checkpoint in a separate process; returns after the process has ended."""
    # -P: no modules are loaded from the folder in which the server was started.
    export = [sys.executable, "-P", "-m", "codeq_server.storage.export", str(checkpoint), str(files), *wanted]
    nothing = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *export, stdin=nothing, stdout=nothing, stderr=asyncio.subprocess.PIPE, env=_environment()
        )
    except OSError as error:
        raise StoreFailed(f"could not make a snapshot: {error.strerror}") from error
    try:
        _, problem = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise StoreFailed(f"could not make a snapshot: {problem.decode(errors='replace')[-ERROR_CHARS_MAX:]}")


def _environment() -> dict[str, str]:
    """Returns the variables that Python and the system need, without the server's own, which hold secrets."""
    return {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StoreFailed(f"could not create {folder}: {error.strerror}") from error
