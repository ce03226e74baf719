"""Claims tasks for a worker stream, within the rate limits and in the turns of the streams of its tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from codeq.v1 import worker_service_pb2 as pb

from codeq_server.core import claims as core_claims
from codeq_server.core.claims import CLAIM_MAX
from codeq_server.core.deliveries import Claim, Holder
from codeq_server.core.model import Caller
from codeq_server.core.task_bytes import splice
from codeq_server.engine.runner import ShardRunner
from codeq_server.engine.waiting import Waiter

from .claiming import Claimed, Lease
from .pacing import Pacing

OPEN_CLAIMS_MIN: Final = 64
"""Number of recorded claims of a stream at which finished claims are dropped."""
FRAME_TASKS_MAX: Final = 512
"""Maximum tasks in one response; bounds how long encoding blocks the event loop."""
FRAME_BYTES_MAX: Final = 1 << 20
"""Maximum task bytes in one response, not counting its last task: clients accept messages of 4 MiB by default."""

_TASKS: Final = pb.WorkResponse.TASKS_FIELD_NUMBER


class Receiver(Waiter, Holder, Protocol):
    """A stream that waits for tasks, holds their claims, and is told of cancelled ones."""


class Delivering:
    """The deliveries of a stream.

    Attributes:
        commands: Commands whose tasks are claimed; None: all of the tenant.
        open: Claims of the stream by their tokens; some of them have ended.
        waits: Whether the latest claim ended because of a wait after which the stream is woken, or `go_on` is called.

    Args:
        runner: Runner of the shard.
        stream: The stream; it waits for work if there is none.
        caller: The worker.
        commands: Commands whose tasks are claimed; None: all of the tenant.
        lease: Length of the leases.
        pacing: Keeps the stream within the rate limits.
        go_on: Work that has the stream claim again, in its tenant's turn.
    """

    def __init__(
        self,
        runner: ShardRunner,
        stream: Receiver,
        caller: Caller,
        commands: list[str] | None,
        lease: Lease,
        pacing: Pacing,
        go_on: Callable[[], int],
    ) -> None:
        self.commands = commands
        self.open: dict[int, Claim] = {}
        self.waits = False
        self._open_max = OPEN_CLAIMS_MIN
        self._runner = runner
        self._stream = stream
        self._caller = caller
        self._lease = lease
        self._pacing = pacing
        self._go_on = go_on

    def claim(self, count: int, room: int, *, in_turn: bool) -> list[Claimed]:
        """Claims tasks for one frame; the stream waits for work if there are fewer.

        Args:
            count: Maximum number of tasks.
            room: Bytes of tasks after which no further task is claimed.
            in_turn: Whether the stream is the next of those that wait.
        """
        self.waits = True
        if self._pacing.waits:
            return []
        runner, lease, tenant = self._runner, self._lease, self._caller.tenant
        now = runner.now()
        got: list[Claimed] = []
        tasks = 0
        tasks_max = min(FRAME_TASKS_MAX, self._pacing.allowed())
        room = min(FRAME_BYTES_MAX, room)
        # Otherwise a stream would take the leases that it ends itself, and all others would starve.
        if not in_turn and runner.line_up(self._stream, tenant, self.commands):
            self._pacing.delivered(0)
            return got
        if not in_turn and runner.gives_way(tenant, self.commands):
            self._pacing.delivered(0)
            runner.admission.push(tenant, self._go_on)  # after those that are being woken
            return got
        self.waits = False
        while count and tasks < tasks_max and room > 0:
            most = min(count, CLAIM_MAX, tasks_max - tasks)
            try:
                claimed = core_claims.claim(
                    runner.shard,
                    self._caller,
                    self.commands,
                    most,
                    room,
                    lease.ms,
                    now,
                    by_policy=lease.is_default,
                )
            except Exception as problem:
                raise runner.fail(problem) from problem
            if claimed is None:
                self._wait()
                break
            claim, delivered = claimed
            got.append(claimed)
            room -= sum(len(d.raw) for d in delivered)
            count -= len(delivered)
            tasks += len(delivered)
            self._remember(claim)
        self._pacing.delivered(tasks)
        if tasks == tasks_max < FRAME_TASKS_MAX and count and room > 0:
            # At a rate limit: waits for it if there is work, and otherwise for work.
            if core_claims.has_work(runner.shard, tenant, self.commands):
                self._pacing.wait(min(count, FRAME_TASKS_MAX))
                self.waits = True
            else:
                self._wait()
        return got

    def priority(self) -> int | None:
        """Returns the highest priority of the tasks that can be claimed; None: there are none, and the stream waits."""
        found = core_claims.claimable_priority(self._runner.shard, self._caller.tenant, self.commands)
        if found is None:
            self._wait()
        return found

    def _wait(self) -> None:
        self._runner.waiting.wait(self._stream, self._caller.tenant, self.commands)
        self.waits = True

    def encoded(self, claims: list[Claimed]) -> tuple[bytes, int]:
        """Returns WorkResponse.tasks in wire form, and the size of the tasks in bytes.

        The stored bytes of tasks are sent with further fields appended, and not encoded again.
        """
        pieces: list[bytes] = []
        now = self._runner.now()
        size = 0
        for claim, delivered in claims:
            until_ms = now.wall_ms + claim.until - now.mono_ms
            size += splice(pieces, _TASKS, delivered, claim.token, until_ms, named=claim.named)
        return b"".join(pieces), size

    def leased(self) -> int:
        """Returns the number of tasks of the stream that are leased."""
        return sum([claim.live for claim in self.open.values()])

    def let_go(self) -> None:
        """Forgets the claims, whose leases run on."""
        for claim in self.open.values():
            claim.holder = None

    def _remember(self, claim: Claim) -> None:
        """Records a claim, and drops finished claims whenever the number of claims has doubled."""
        self.open[claim.token] = claim
        claim.holder = self._stream
        if len(self.open) > self._open_max:
            self.open = {token: held for token, held in self.open.items() if held.live}
            self._open_max = max(OPEN_CLAIMS_MIN, 2 * len(self.open))
