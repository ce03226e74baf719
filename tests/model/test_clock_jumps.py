"""The wall clock is set forward and back by an hour while tasks wait and run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from accepted_tasks import create
from codeq_internal.v1 import rows_pb2
from codeq_server.core import claims, keys, outcomes, reads, recovery, timers
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.clock import Now
from codeq_server.core.model import Caller
from codeq_server.core.shard import ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.storage.memory import MemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st

HOUR_MS = 3_600_000
LEASE_MS = 2_000
TENANT = "acme"
WORKER = Caller(TENANT, "w", "w")


class Jumping:
    """A shard whose wall clock jumps; its monotonic clock does not."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.wall, self.mono, self.epoch = 1_700_000_000_000, 5_000, 0
        self.restart()

    def restart(self) -> None:
        """Reopens the shard; a monotonic clock may start anywhere."""
        self.epoch += 1
        identity = rows_pb2.IdentityRow(format=keys.FORMAT, num_shards=1, cluster_id=b"c" * 16, epoch=self.epoch)
        self.store.write({keys.IDENTITY: identity.SerializeToString()})
        self.mono = 7
        policy = ShardSettings(backoff_policy=BackoffPolicy.FIXED)
        self.shard = recovery.open_shard(self.store, policy, self.epoch, self.wall, self.mono)

    @property
    def now(self) -> Now:
        return self.shard.at(self.wall, self.mono)

    def create(self, delay: int = 0, expire: int = 0) -> str:
        now = self.now
        due, until = (now.wall_ms + delay if delay else 0), (now.wall_ms + expire if expire else 0)
        return create(self.shard, TENANT, "a", b"1", 0, 0, due, now, until)[0]

    def claim(self) -> str:
        taken = claims.claim(self.shard, WORKER, None, 1, 1 << 20, LEASE_MS, self.now)
        assert taken is not None
        return str(taken[1][0].task_id)

    def write(self) -> None:
        sealed = self.shard.seal(self.now)
        self.store.write(sealed.rows)
        self.shard.settled(sealed.lsn)

    def tick(self) -> None:
        """Advances time by a millisecond and runs the timers."""
        self.wall, self.mono = self.wall + 1, self.mono + 1
        while timers.run_due(self.shard, self.now):
            pass

    def status(self, task_id: str) -> str:
        return reads.get_task(self.shard, TENANT, task_id, self.now).status.name


@dataclass
class Jump:
    """A jump of the wall clock, a number of milliseconds after the previous one."""

    after_ms: int
    by_ms: int


JUMPS = st.lists(
    st.builds(Jump, after_ms=st.integers(0, 900), by_ms=st.sampled_from([-HOUR_MS, HOUR_MS, -1, 1])), max_size=6
)


def pass_time(of: Jumping, ms: int, jumps: list[Jump]) -> Iterator[int]:
    """Advances time, with jumps; yields the shard's wall time after each millisecond."""
    plan: dict[int, int] = {}
    at = 0
    for jump in jumps:
        at += jump.after_ms
        plan[at] = plan.get(at, 0) + jump.by_ms
    for passed in range(ms):
        of.wall += plan.get(passed, 0)
        of.tick()
        yield of.now.wall_ms


@settings(max_examples=40, deadline=None, database=None)
@given(jumps=JUMPS, restart=st.booleans())
def test_lease_neither_expires_early_nor_freezes_when_the_clock_jumps(jumps: list[Jump], *, restart: bool) -> None:
    of = Jumping()
    task_id = of.create()
    assert of.claim() == task_id
    of.write()
    if restart:
        of.wall += sum(jump.by_ms for jump in jumps)
        of.restart()  # rearms the lease at its full length
    for _ in pass_time(of, LEASE_MS - 1, jumps):
        assert of.status(task_id) == "CLAIMED"
    of.tick()
    assert of.status(task_id) == "PENDING"


@settings(max_examples=40, deadline=None, database=None)
@given(jumps=JUMPS, nacked=st.booleans(), expires=st.booleans())
def test_delay_and_expiry_are_never_early_when_the_clock_jumps(
    jumps: list[Jump], *, nacked: bool, expires: bool
) -> None:
    """Tasks fall due by the shard's wall clock, which follows jumps forward and runs slowly after jumps back."""
    of = Jumping()
    if expires:
        task_id = of.create(expire=1500)
    elif nacked:
        task_id = of.create()
        of.claim()
        outcomes.settle(of.shard, WORKER, task_id, None, Outcome.NACK, None, "", 1500, 0.5, of.now)
    else:
        task_id = of.create(delay=1500)
    due, before = of.now.wall_ms + 1500, of.status(task_id)
    after = "FAILED" if expires else "PENDING"
    for wall in pass_time(of, 2000, jumps):
        assert of.status(task_id) == (before if wall < due else after)


@pytest.mark.parametrize("by_ms", [-HOUR_MS, HOUR_MS])
def test_delay_follows_the_clock_after_a_jump(by_ms: int) -> None:
    """A delay ends at once after a jump forward, and after a jump back by the time the clock has caught up."""
    of = Jumping()
    task_id = of.create(delay=1000)
    of.wall += by_ms
    of.tick()
    assert of.status(task_id) == ("PENDING" if by_ms > 0 else "SCHEDULED")
    of.wall += max(0, -by_ms) + 997
    of.tick()
    assert of.status(task_id) == ("PENDING" if by_ms > 0 else "SCHEDULED")
    of.tick()
    assert of.status(task_id) == "PENDING"


@pytest.mark.parametrize("restart", [False, True])
def test_delay_at_most_doubles_while_the_clock_is_behind(*, restart: bool) -> None:
    """A clock is behind after a leader whose clock was an hour ahead, or after a single node's clock was corrected."""
    of = Jumping()
    of.wall += HOUR_MS
    of.create()
    of.write()
    of.wall -= HOUR_MS
    if restart:
        of.restart()
    task_id = of.create(delay=1000)
    for _ in range(1000):
        of.tick()
    assert of.status(task_id) == "SCHEDULED"
    for _ in range(1001):
        of.tick()
    assert of.status(task_id) == "PENDING"
