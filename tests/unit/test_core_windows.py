"""Windows count exactly the bytes that they hold, even after tasks in the middle have left."""

from __future__ import annotations

import random

import pytest
from codeq_server.core import withdrawal
from codeq_server.core.model import NO_WINDOW, WINDOW_BYTES, WINDOW_ENTRY_BYTES
from codeq_server.core.shard import Shard
from driven_shard import TENANT, DrivenShard


def held_bytes(shard: Shard) -> int:
    """Returns the bytes that all windows hold, recounted."""
    lanes = [lane for queue in shard.queues.values() for lane in queue.lanes if lane is not None]
    for lane in lanes:
        entries = sum(len(entry.raw) + WINDOW_ENTRY_BYTES for entry in lane.window)
        assert lane.window_bytes == entries + WINDOW_BYTES * (lane.window is not NO_WINDOW)
    return sum(lane.window_bytes for lane in lanes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 3_000, 1 << 20])
def test_windows_count_their_bytes_while_tasks_are_cancelled_and_claimed(seed: int, budget: int) -> None:
    driven, chance = DrivenShard(window_bytes_max=budget), random.Random(seed)
    waiting: list[str] = []
    for step in range(200):
        what = chance.random()
        if what < 0.5:
            command, size = chance.choice("ab"), chance.choice([1, 500])
            waiting.append(driven.create(command, priority=chance.choice([0, 9]), size=size, attempts=1000))
        elif what < 0.7 and waiting:
            task_id = waiting.pop(chance.randrange(len(waiting)))
            withdrawal.cancel(driven.shard, TENANT, task_id, "", driven.now)
        else:
            for delivered in driven.claim(chance.randint(1, 4)):
                task_id = str(delivered.task_id)
                waiting.remove(task_id)
                if chance.random() < 0.5:
                    driven.nack(task_id)
                    waiting.append(task_id)
        if step % 7 == 0:
            driven.write_unchecked()
        assert driven.shard.windows_bytes == held_bytes(driven.shard)
    driven.write()


def test_window_with_a_cancelled_task_in_the_middle_is_empty_once_the_rest_are_claimed() -> None:
    driven = DrivenShard()
    ids = [driven.create(size=1000) for _ in range(4)]
    withdrawal.cancel(driven.shard, TENANT, ids[1], "", driven.now)
    driven.create(priority=9)
    assert len(driven.claim(3)) == 3
    assert driven.shard.windows_bytes == held_bytes(driven.shard) > 0
    driven.claim()
    assert driven.shard.windows_bytes == held_bytes(driven.shard) == 0
