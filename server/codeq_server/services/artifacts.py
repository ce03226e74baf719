"""Artifacts of results: stored before the result is decided, served as files afterwards."""

from __future__ import annotations

import errno
import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq_internal.v1 import rows_pb2

from codeq_server.core import holders, keys, lookup
from codeq_server.core.errors import CorruptRows, Reason, Rejection, invalid_field
from codeq_server.core.model import Caller
from codeq_server.core.reads import TaskView
from codeq_server.engine.artifacts import PENDING_BYTES_MAX, ArtifactKeeper, File
from codeq_server.engine.contents import ContentRows, content_of
from codeq_server.engine.runner import ShardRunner

from .validation import check_message

RESULT_BYTES_MAX: Final = 6 << 20
"""Maximum bytes of all artifacts of a result; encoded as base64, they fit into one request body."""
DEFAULT_TYPE: Final = "application/octet-stream"
FILE_BYTES: Final = 16

Keeper = ArtifactKeeper | ContentRows
"""Stores contents of artifacts, in files or in rows."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Artifacts:
    """Stores and serves the artifacts of a shard's results.

    Args:
        runner: Runner of the shard.
        keeper: Stores contents; None: contents are rejected.
        content_bytes_max: Maximum bytes of one content.
    """

    def __init__(self, runner: ShardRunner, keeper: Keeper | None, content_bytes_max: int) -> None:
        self.runner = runner
        self.keeper = keeper
        self.content_bytes_max = content_bytes_max

    async def tell(
        self, tenant: str, task_id: str, name: str, look: Callable[[], TaskView]
    ) -> pb.GetTaskArtifactResponse:
        """Returns an artifact with its content.

        Args:
            tenant: Tenant of the caller.
            task_id: The task.
            name: Name of the artifact.
            look: Returns the current state of the task.

        Raises:
            Rejection: TASK_NOT_FOUND, ARTIFACT_NOT_FOUND, CORRUPT_DATA, LIMIT_REACHED.
        """
        kept = _named(look(), name)
        await self.runner.wait_durable()
        if kept.url:
            raise Rejection(Reason.ARTIFACT_NOT_FOUND, f"the artifact is not stored here; its URL is {kept.url}")
        lane, position = lookup.find_home(self.runner.shard, tenant, task_id)
        content = await self._read(keys.home_of(keys.place_key(lane.state_prefix, position)), kept)
        if content is None:
            if _named(look(), name).file != kept.file:
                raise Rejection(Reason.ARTIFACT_NOT_FOUND, "the task was redriven in the meantime")
            raise Rejection(Reason.CORRUPT_DATA, f"the file of the artifact is missing or damaged: {kept.file.hex()}")
        return pb.GetTaskArtifactResponse(
            name=name, content_type=kept.content_type or DEFAULT_TYPE, content=content, sha256=kept.sha256.hex()
        )

    async def _read(self, home: bytes, kept: rows_pb2.ArtifactRow) -> bytes | None:
        """Returns the content of an artifact; None: the file is missing or damaged."""
        keeper = self.keeper
        if keeper is None:
            return None
        take_room(keeper, kept.size)
        try:
            if kept.chunks:
                content = await content_of(self.runner.shard.stored, home, kept.file, kept.chunks)
            elif isinstance(keeper, ArtifactKeeper):
                content = await keeper.read(home, kept.file, kept.size)
            else:
                return None  # this node has no files
            digest = await keeper.run(lambda: hashlib.sha256(content).digest())
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise _refusal(keeper, problem) from None
        finally:
            keeper.pending_bytes -= kept.size
        return content if digest == kept.sha256 else None


class Uploads:
    """Artifacts of results about to be decided. Await `settle` after the decisions, even if uploads or decisions fail.

    Args:
        artifacts: Store of the artifacts.
        caller: The worker that sent the results.
    """

    def __init__(self, artifacts: Artifacts, caller: Caller) -> None:
        self._artifacts = artifacts
        self._caller = caller
        self._files: list[File] = []
        self._pending_bytes = 0

    async def settle(self) -> None:
        """Removes the files of rejected results."""
        keeper = self._artifacts.keeper
        if keeper is not None and self._pending_bytes:
            keeper.pending_bytes -= self._pending_bytes
            await keeper.decided(self._files)

    async def add(
        self, task_id: str, token: int | None, new: Sequence[task_pb2.NewArtifact], path: str = ""
    ) -> list[rows_pb2.ArtifactRow]:
        """Returns the rows of a result's artifacts; the contents are on disk if the caller holds the task's lease.

        Args:
            task_id: Task of the result.
            token: Its lease token.
            new: The artifacts, already checked by the rules in their proto.
            path: Path of the message with their list in the request.

        Raises:
            Rejection: INVALID_FIELD, TOO_LARGE, LIMIT_REACHED, STORAGE_FULL, CORRUPT_DATA.
        """
        rows = [rows_pb2.ArtifactRow(name=each.name, url=each.url, content_type=each.content_type) for each in new]
        contents = [(row, each.content) for row, each in zip(rows, new, strict=True) if each.HasField("content")]
        keeper = _checked(self._artifacts, new, path)
        if keeper is None:
            return rows
        size = sum(len(content) for _, content in contents)
        take_room(keeper, size)
        self._pending_bytes += size
        await keeper.run(lambda: _describe(contents))
        home = self._home(task_id, token)
        if home is None:
            return rows  # the decision will reject the result, or recognise it as a repeat
        for row, _ in contents:
            row.file, row.chunks = secrets.token_bytes(FILE_BYTES), keeper.chunks_of(row.size)
            self._files.append((home, row.file))
        try:
            await keeper.write(home, [(row.file, content) for row, content in contents])
        except OSError as problem:
            raise _refusal(keeper, problem) from None
        return rows

    def _home(self, task_id: str, token: int | None) -> bytes | None:
        """Returns the home of a task whose lease the caller holds; None: the caller does not hold it."""
        try:
            _, delivery = holders.held(self._artifacts.runner.shard, self._caller, task_id, token)
        except Rejection:
            return None
        except CorruptRows as problem:
            raise Rejection(Reason.CORRUPT_DATA, str(problem)) from None
        return keys.home_of(keys.place_key(delivery.home.state_prefix, delivery.position))


Filed = dict[tuple[str, int], list[rows_pb2.ArtifactRow] | Rejection]
"""Artifacts of a message's outcomes by task and lease token, or the rejection of those artifacts."""


async def take_filed(uploads: Uploads, message: worker_pb.WorkRequest) -> Filed:
    """Stores the artifacts of a message's outcomes.

    Raises:
        Rejection: INVALID_FIELD: a list of artifacts in the message has no outcome, or two lists have the same outcome;
            TOO_LARGE.
    """
    outcomes_of = {(each.task_id, each.lease_token) for each in message.outcomes}
    filed: Filed = {}
    size = 0
    for index, item in enumerate(message.artifacts):
        key = item.task_id, item.lease_token
        if key not in outcomes_of or key in filed:
            raise invalid_field(f"artifacts[{index}]", "must match exactly one outcome of the message")
        size += sum(len(each.content) for each in item.artifacts)
        if size > RESULT_BYTES_MAX:
            raise Rejection(
                Reason.TOO_LARGE, f"artifacts: {size} bytes in one message; the limit is {RESULT_BYTES_MAX}"
            )
        try:
            check_message(item)
            filed[key] = await uploads.add(item.task_id, item.lease_token, item.artifacts)
        except Rejection as rejection:
            filed[key] = rejection.again()
    return filed


def take_room(keeper: Keeper, size: int) -> None:
    """Counts bytes as in flight; the caller subtracts them later.

    Raises:
        Rejection: LIMIT_REACHED.
    """
    if keeper.pending_bytes + size > PENDING_BYTES_MAX:
        raise Rejection(Reason.LIMIT_REACHED, f"more than {PENDING_BYTES_MAX} bytes of artifacts are in flight")
    keeper.pending_bytes += size


def _checked(artifacts: Artifacts, new: Sequence[task_pb2.NewArtifact], path: str) -> Keeper | None:
    """Returns the keeper for the contents of a result's artifacts; None: no artifact has content.

    Raises:
        Rejection: INVALID_FIELD, TOO_LARGE.
    """
    names: set[str] = set()
    size, has_content = 0, False
    for index, each in enumerate(new):
        field = f"{path}artifacts[{index}]"
        if each.name in names:
            raise invalid_field(f"{field}.name", "is also the name of another artifact of the result")
        names.add(each.name)
        if each.HasField("content"):
            has_content = True
            size += len(each.content)
            if artifacts.keeper is None:
                raise invalid_field(f"{field}.content", "cannot be stored: the server has no folder for artifacts")
            for bytes_max, what in ((artifacts.content_bytes_max, len(each.content)), (RESULT_BYTES_MAX, size)):
                if what > bytes_max:
                    text = f"{field}.content: {what} bytes; the limit is {bytes_max}"
                    raise Rejection(Reason.TOO_LARGE, text, ((f"{field}.content", "too large"),))
    return artifacts.keeper if has_content else None


def _describe(contents: Iterable[tuple[rows_pb2.ArtifactRow, bytes]]) -> None:
    for row, content in contents:
        row.size = len(content)
        row.sha256 = hashlib.sha256(content).digest()


def _named(view: TaskView, name: str) -> rows_pb2.ArtifactRow:
    for each in view.artifacts:
        if each.name == name:
            return each
    raise Rejection(Reason.ARTIFACT_NOT_FOUND, f"the task's result has no artifact {name[:128]!r}")


def _refusal(keeper: Keeper, problem: OSError) -> Rejection:
    if problem.errno in _FULL:
        return Rejection(Reason.STORAGE_FULL, "the disk for artifacts is nearly full")
    keeper.on_trouble("an artifact cannot be written or read", problem)
    return Rejection(Reason.INTERNAL, "the artifact cannot be written or read")
