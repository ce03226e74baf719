"""The producer stream: frames of tasks in, acks out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from codeq.v1 import producer_service_pb2 as pb
from codeq.v1 import task_pb2
from codeq_gateway.bodies import LARGE_BYTES, InFlight

from codeq_server.core import names
from codeq_server.core.clock import Now
from codeq_server.core.creates import create_in
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Queue
from codeq_server.core.quotas import may_refuse
from codeq_server.core.task_bytes import varint
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner

from .auditing import denial_of, record_denial
from .convert import item_error
from .creating import task_of
from .handshake import PROTOCOL, SERVER_VERSION, opening
from .outbox import Outbox
from .rate_limits import FRAMES, RateLimits
from .server_info import PAYLOAD_BYTES_MAX
from .stream_token import StreamToken
from .streams import StreamRegistry, hello_of, protocol_error
from .validation import check_message, is_json

UNACKED_FRAMES_MAX: Final = 256
UNACKED_BYTES_MAX: Final = 16 << 20
FRAME_TASKS_MAX: Final = 4096
FRAME_BYTES_MAX: Final = 8 << 20
_CALL: Final = "Produce"
SLICE_TASKS_MAX: Final = 512
"""Tasks of a frame created without yielding to other callers."""


class ProducerStream:
    """One producer's stream."""

    def __init__(
        self,
        runner: ShardRunner,
        token: StreamToken,
        registry: StreamRegistry,
        context: Any,
        in_flight: InFlight,
        rates: RateLimits,
    ) -> None:
        self._runner = runner
        self._rates = rates
        self._in_flight = in_flight
        self._token = token
        self._tenant = token.claims.tenant_id
        self._subject = token.claims.subject
        self._registry = registry
        self._context = context
        self._outbox: Outbox[tuple[pb.FrameAck, int]] = Outbox(runner)
        self._unacked_bytes = 0
        self._acked = asyncio.Event()
        self._writing = asyncio.Lock()
        self._first: pb.ProduceRequest | None = None
        """The message with the hello, until it is processed."""

    async def run(self) -> None:
        """Serves the stream until the client half-closes.

        Raises:
            Rejection: BAD_HANDSHAKE, TOO_LARGE, INVALID_FIELD, OUTCOME_UNKNOWN, or the reason why a token is no
                longer accepted.
        """
        self._first = await hello_of(self._context, pb.ProduceRequest)
        opened = self._greet(self._first.hello)
        welcome = pb.ProducerWelcome(
            tenant_id=self._tenant,
            subject=self._subject,
            unacked_frames_max=UNACKED_FRAMES_MAX,
            unacked_bytes_max=UNACKED_BYTES_MAX,
            frame_tasks_max=FRAME_TASKS_MAX,
            frame_bytes_max=FRAME_BYTES_MAX,
            server_version=SERVER_VERSION,
            protocol=PROTOCOL,
        )
        await self._registry.serve(self.notify, self._token, partial(self._serve, welcome, opened))

    def _greet(self, hello: pb.ProducerHello) -> Callable[[], None]:
        """Checks the hello; returns what logs that the stream was opened."""
        check_message(hello)
        return opening(_CALL, self._token.claims, hello.client_name, hello.client, self._context.peer())

    async def _serve(self, welcome: pb.ProducerWelcome, opened: Callable[[], None], group: asyncio.TaskGroup) -> None:
        opened()
        await self._write(pb.ProduceResponse(welcome=welcome))
        acks = group.create_task(self._registry.part(self._outbox.run, self._send), name="producer-acks")
        refusal: Rejection | None = None
        try:
            await self._registry.part(self._read)
        except Rejection as rejection:
            if rejection.reason is not Reason.DRAINING:
                raise
            refusal = rejection
        finally:
            self._outbox.end()
        await asyncio.wait((acks,))  # the client may not read them before its token expires
        if refusal is not None:
            raise refusal

    async def notify(self, notice: pb.StreamNotice) -> None:
        """Notifies the client that the server will end the stream."""
        await self._write(pb.ProduceResponse(notice=notice))

    async def _read(self) -> None:
        message: Any = self._first
        while isinstance(message, pb.ProduceRequest):
            if message.HasField("hello") and self._first is None:
                raise protocol_error("only the first message may carry the hello")
            self._first = None
            if message.token:
                await self._token.renew(message.token)
            if message.tasks:
                await self._take(message)
            message = None  # frees the frame while waiting for the next one
            while len(self._outbox) >= UNACKED_FRAMES_MAX or self._unacked_bytes > UNACKED_BYTES_MAX:
                self._acked.clear()
                await self._acked.wait()
            message = await self._context.read()

    async def _take(self, frame: pb.ProduceRequest) -> None:
        size = frame.ByteSize()
        if size > FRAME_BYTES_MAX or len(frame.tasks) > FRAME_TASKS_MAX:
            raise Rejection(
                Reason.TOO_LARGE,
                f"a frame of {len(frame.tasks)} tasks and {size} bytes; the limits are {FRAME_TASKS_MAX} and "
                f"{FRAME_BYTES_MAX}",
            )
        # Meanwhile nothing more is read, so the client's window fills.
        await self._rates.wait(FRAMES, self._token.claims, len(frame.tasks))
        if size < LARGE_BYTES:
            await self._create_in_slices(frame, size)
            return
        # Never rejected: ending the stream would leave its client in doubt about the frame's outcome.
        self._in_flight.hold(size)
        try:
            async with self._in_flight.turn(size):
                await self._create_in_slices(frame, size)
        finally:
            self._in_flight.release(size)

    async def _create_in_slices(self, frame: pb.ProduceRequest, size: int) -> None:
        self._unacked_bytes += size
        ack = pb.FrameAck()
        count = len(frame.tasks)
        for first in range(0, count, SLICE_TASKS_MAX):
            await self._runner.room(self._tenant, CALL_COST + min(count - first, SLICE_TASKS_MAX))
            part = frame.tasks if count <= SLICE_TASKS_MAX else frame.tasks[first : first + SLICE_TASKS_MAX]
            # Twice the size, because what other fields of a task need in the store may be a little longer than here.
            tight = may_refuse(self._runner.shard, self._tenant, len(part), 2 * size)
            self._create_all(part, first, ack, tight=tight)
            self._runner.changed()
        self._outbox.put((ack, size))
        if ack.errors and (denial := denial_of(ack.errors, self._token.claims)) is not None:
            record_denial(self._runner, _CALL, denial, self._context.peer())

    def _create_all(self, specs: Sequence[task_pb2.TaskSpec], first: int, ack: pb.FrameAck, *, tight: bool) -> None:
        """Creates a slice of a frame's tasks, the first at index `first`, and records the outcomes in the ack.

        Args:
            specs: The tasks.
            first: Index of the first one in the frame.
            ack: The ack of the frame.
            tight: Whether a quota may refuse some of them.
        """
        shard, tenant, now = self._runner.shard, self._tenant, self._runner.now()
        claims = self._token.claims
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
                # that it contains only command, payload and priority.
                if (
                    queue is not None
                    and 0 <= priority <= 9
                    and 0 < size <= PAYLOAD_BYTES_MAX
                    and spec.ByteSize() == head_bytes + len(varint(size)) + size + (2 if priority else 0)
                    and is_json(payload)
                ):
                    ids.append(create_in(shard, queue, payload, priority, now)[0])
                else:
                    ids.append(self._create(spec, first + len(ids), now, ack))
        except Exception as problem:
            raise self._runner.fail(problem) from problem
        ack.task_ids.extend(ids)

    def _create(self, spec: task_pb2.TaskSpec, index: int, now: Now, ack: pb.FrameAck) -> str:
        """Creates one task with full validation; returns its id, or "" after adding an error to the ack."""
        try:
            check_message(spec)
            self._token.claims.check_command(spec.command)
            shard = self._runner.shard
            created = names.create(shard, self._tenant, task_of(shard, self._tenant, spec, now), now)
        except Rejection as rejection:
            ack.errors.append(item_error(index, rejection))
            return ""
        if isinstance(created, names.Duplicate):
            ack.duplicates.append(index)
        return created.task_id

    async def _write(self, message: pb.ProduceResponse) -> None:
        async with self._writing:
            await self._context.write(message)

    async def _send(self, frames: list[tuple[pb.FrameAck, int]]) -> None:
        await self._write(pb.ProduceResponse(acks=[ack for ack, _ in frames]))
        self._unacked_bytes -= sum(size for _, size in frames)
        self._acked.set()
