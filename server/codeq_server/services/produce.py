"""The producer stream: frames of tasks in, acks out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from codeq.v1 import producer_service_pb2 as pb
from codeq_gateway.bodies import LARGE_BYTES, InFlight

from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.runner import ShardRunner

from .elsewhere import Elsewhere
from .frame_creator import FrameCreator
from .handshake import PROTOCOL, SERVER_VERSION, opening, place_of
from .outbox import Outbox
from .rate_limits import FRAMES, RateLimits
from .shards import Shards
from .stream_token import StreamToken
from .streams import StreamRegistry, hello_of, protocol_error
from .validation import check_message

UNACKED_FRAMES_MAX: Final = 256
UNACKED_BYTES_MAX: Final = 16 << 20
FRAME_TASKS_MAX: Final = 4096
FRAME_BYTES_MAX: Final = 8 << 20
_CALL: Final = "Produce"


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
        shards: Shards | None = None,
    ) -> None:
        self._runner = runner
        self._rates = rates
        self._elsewhere: Elsewhere | None = None
        if shards is not None:
            self._elsewhere = Elsewhere(shards, token, context.peer())
        self._creator = FrameCreator(runner, token.claims.tenant_id, context.peer(), self._elsewhere)
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
        shard, shards = place_of(self._runner.shard.settings.route)
        welcome = pb.ProducerWelcome(
            tenant_id=self._tenant,
            subject=self._subject,
            unacked_frames_max=UNACKED_FRAMES_MAX,
            unacked_bytes_max=UNACKED_BYTES_MAX,
            frame_tasks_max=FRAME_TASKS_MAX,
            frame_bytes_max=FRAME_BYTES_MAX,
            server_version=SERVER_VERSION,
            protocol=PROTOCOL,
            shard=shard,
            shards=shards,
        )
        await self._registry.serve(self.notify, self._token, partial(self._serve, welcome, opened))

    def _greet(self, hello: pb.ProducerHello) -> Callable[[], None]:
        """Checks the hello; returns what logs that the stream was opened."""
        check_message(hello)
        return opening(_CALL, self._token.claims, hello.client_name, hello.client, self._context.peer())

    async def _serve(self, welcome: pb.ProducerWelcome, opened: Callable[[], None], group: asyncio.TaskGroup) -> None:
        opened()
        await self._write(pb.ProduceResponse(welcome=welcome))
        if self._elsewhere is not None:
            self._elsewhere.group = group
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
            await self._create(frame, size)
            return
        # Never rejected: ending the stream would leave its client in doubt about the frame's outcome.
        self._in_flight.hold(size)
        try:
            async with self._in_flight.turn(size):
                await self._create(frame, size)
        finally:
            self._in_flight.release(size)

    async def _create(self, frame: pb.ProduceRequest, size: int) -> None:
        self._unacked_bytes += size
        ack = await self._creator.create(self._token.claims, frame, size)
        self._outbox.put((ack, size), None if self._elsewhere is None else self._elsewhere.send(ack))

    async def _write(self, message: pb.ProduceResponse) -> None:
        async with self._writing:
            await self._context.write(message)

    async def _send(self, frames: list[tuple[pb.FrameAck, int]]) -> None:
        await self._write(pb.ProduceResponse(acks=[ack for ack, _ in frames]))
        self._unacked_bytes -= sum(size for _, size in frames)
        self._acked.set()
