"""Creates the tasks of producers' frames in the shard of this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from codeq.v1 import producer_service_pb2 as pb
from codeq.v1 import task_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import names
from codeq_server.core.clock import Now
from codeq_server.core.creates import create_in
from codeq_server.core.errors import Rejection
from codeq_server.core.model import Queue
from codeq_server.core.policy import STEPS_PER_TURN
from codeq_server.core.quotas import may_refuse
from codeq_server.core.task_fields import varint
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner

from .auditing import denial_of, record_denial
from .convert import item_error
from .creating import charged_task_of
from .elsewhere import Elsewhere
from .server_info import PAYLOAD_BYTES_MAX
from .spec_fields import kept_trace
from .validation import check_message, is_json

SLICE_TASKS_MAX: Final = 512
"""Tasks of a frame created without yielding to other callers."""
_CALL: Final = "Produce"


class FrameCreator:
    """Creates the tasks of one caller's frames.

    Attributes:
        has_begun: Whether tasks of any frame have been decided.

    Args:
        runner: Runner of the shard.
        tenant: Tenant of the tasks.
        origin: Address of the caller in gRPC's form.
        elsewhere: Takes tasks whose ids belong to other shards; None: there are none.
    """

    def __init__(self, runner: ShardRunner, tenant: str, origin: str, elsewhere: Elsewhere | None = None) -> None:
        self._runner = runner
        self._tenant = tenant
        self._origin = origin
        self._elsewhere = elsewhere
        self.has_begun = False

    async def create(self, claims: Claims, frame: pb.ProduceRequest, size: int) -> pb.FrameAck:
        """Creates the tasks of a frame, and returns its ack, which the caller may send once everything is durable.

        Args:
            claims: Claims of the caller.
            frame: The frame.
            size: Its bytes.

        Raises:
            Rejection: The runner no longer decides.
        """
        ack = pb.FrameAck()
        count = len(frame.tasks)
        first = 0
        while first < count:
            await self._runner.room(self._tenant, CALL_COST + min(count - first, SLICE_TASKS_MAX))
            whole = not first and count <= SLICE_TASKS_MAX
            part = frame.tasks if whole else frame.tasks[first : first + SLICE_TASKS_MAX]
            # Twice the size, because what other fields of a task need in the store may be a little longer than here.
            tight = may_refuse(self._runner.shard, self._tenant, len(part), 2 * size)
            first += self._create_all(claims, part, first, ack, tight=tight)
            self._runner.changed()
        if ack.errors and (denial := denial_of(ack.errors, claims)) is not None:
            record_denial(self._runner, _CALL, denial, self._origin)
        return ack

    def _create_all(
        self, claims: Claims, specs: Sequence[task_pb2.TaskSpec], first: int, ack: pb.FrameAck, *, tight: bool
    ) -> int:
        """Creates a slice of a frame's tasks, the first at index `first`, and records the outcomes in the ack.

        Ends early once the checks of payloads have taken long; returns the number of tasks processed.

        Args:
            claims: Claims of the caller.
            specs: The tasks.
            first: Index of the first one in the frame.
            ack: The ack of the frame.
            tight: Whether a quota may refuse some of them.
        """
        shard, tenant, now = self._runner.shard, self._tenant, self._runner.now()
        checker = shard.policies.checker
        until = checker.steps + STEPS_PER_TURN
        queue: Queue | None = None
        command = ""
        head_bytes = 0
        ids: list[str] = []
        try:
            for spec in specs:
                if spec.command != command or queue is None:
                    command = spec.command
                    # With the disk nearly full, a quota nearly used up, the command not allowed, or a policy, each task
                    # takes the slow path, which rejects it if needed.
                    refused = tight or shard.storage_full or not claims.sees(command)
                    queue = None if refused else shard.by_name.get((tenant, command))
                    if queue is not None and queue.policy is not None:
                        queue = None
                    head_bytes = 3 + len(command)
                payload, priority = spec.payload, spec.priority
                size = len(payload)
                # Fast path: these checks are stricter than the proto's rules, and cheaper. The size of the spec shows
                # that it contains only command, payload and priority, and perhaps a trace context.
                kept: bytes | None = b""
                if queue is not None:
                    others = spec.ByteSize() - (head_bytes + len(varint(size)) + size + (2 if priority else 0))
                    if others:
                        kept = kept_trace(spec, others)
                if (
                    queue is not None
                    and kept is not None
                    and 0 <= priority <= 9
                    and 0 < size <= PAYLOAD_BYTES_MAX
                    and is_json(payload)
                ):
                    task_id = create_in(shard, queue, payload, priority, now, None, kept)[0]
                    if kept and shard.traces is not None:
                        shard.traces.begin(task_id, tenant, command, spec.traceparent, now.wall_ms)
                    ids.append(task_id)
                else:
                    ids.append(self._create(claims, spec, first + len(ids), now, ack))
                    if checker.steps >= until:
                        break
        except Exception as problem:
            raise self._runner.fail(problem) from problem
        ack.task_ids.extend(ids)
        self.has_begun = True
        return len(ids)

    def _create(self, claims: Claims, spec: task_pb2.TaskSpec, index: int, now: Now, ack: pb.FrameAck) -> str:
        """Creates one task with full validation.

        Returns:
            Its id; "" if an error was added to the ack, or if another shard creates the task.
        """
        try:
            check_message(spec)
            claims.check_command(spec.command)
            if self._elsewhere is not None and self._elsewhere.takes(claims, spec, index):
                return ""
            task = charged_task_of(self._runner, self._tenant, spec, now)
            created = names.create(self._runner.shard, self._tenant, task, now)
        except Rejection as rejection:
            ack.errors.append(item_error(index, rejection))
            return ""
        if isinstance(created, names.Duplicate):
            ack.duplicates.append(index)
        return created.task_id
