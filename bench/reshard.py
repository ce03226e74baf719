"""Measures changes of the number of shards: tasks per second, memory, and the checks before and after.

    bench/reshard.py                                    300,000 tasks in all states, from 1 shard to 4, to 2
    bench/reshard.py --tasks 2000000 --to 4 2 1

Makes a store through the core, without a server. Prints one JSON line:

    tasks               tasks by state, as the checker counts them; they must be the same after each change
    tasks_per_s         tasks moved per second, by new number of shards, without the checks
    tasks_per_cpu_s     the same per second of CPU time, which a busy machine changes less
    seconds             whole time, with both checks, by new number of shards
    rss_mb              peak resident memory of the whole run

--save appends it to bench/results/reshard.jsonl.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from codeq_server.core import names, outcomes, recovery
from codeq_server.core.claims import claim
from codeq_server.core.clock import Now
from codeq_server.core.model import Caller, id_of
from codeq_server.core.new_task import NewTask
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.storage.check import check_store
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.layout import shard_path
from codeq_server.storage.resharding.reshard import reshard
from codeq_server.storage.rocks import RocksStore
from run import describe_commit, describe_machine

FRAME_TASKS: Final = 1000
CLAIMED: Final = 250
"""Tasks claimed after each frame: of five, two are completed, one fails, one goes back to the end, one stays leased."""
QUEUES: Final = 50
PAYLOAD: Final = b'"' + b"x" * 198 + b'"'
DELAYED: Final = 20
"""One of so many tasks is delayed by an hour."""
STATES: Final = ("pending", "scheduled", "claimed", "completed", "failed", "dlq", "cancelled")
RESULTS: Final = Path(__file__).with_name("results") / "reshard.jsonl"
WORKER: Final = Caller("acme", "w", "w")
ENDS: Final = (Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED, Outcome.NACK, None)


def fill(path: Path, tasks: int) -> None:
    """Makes a store with so many tasks."""
    store = RocksStore(path, fsync=False)
    now_ms = int(time.time() * 1000)
    identity = next_identity(store, 1, now_ms // 1000, bytes(range(16)))
    save(store, identity)
    shard = recovery.open_shard(store, ShardSettings(max_attempts=3), identity.epoch, now_ms, 1)
    for first in range(0, tasks, FRAME_TASKS):
        now = shard.at(now_ms + first // FRAME_TASKS, 1 + first // FRAME_TASKS)
        for number in range(first, min(first + FRAME_TASKS, tasks)):
            due_ms = 0 if number % DELAYED else now.wall_ms + 3_600_000
            task = NewTask(f"c{number // 40 % QUEUES}", PAYLOAD, number % 3, 0, due_ms, None, 0, b"")
            names.create(shard, WORKER.tenant, task, now)
        work(shard, now)
        batch = shard.seal(now)
        store.write(batch.rows)
        shard.settled(batch.lsn)
    store.close()


def work(shard: Shard, now: Now) -> None:
    """Claims some tasks, and ends most of them."""
    got = claim(shard, WORKER, None, CLAIMED, 1 << 30, 3_600_000, now)
    if got is None:
        return
    for number, delivered in enumerate(got[1]):
        end = ENDS[number % len(ENDS)]
        if end is not None:
            result = b"1" if end is Outcome.COMPLETED else None
            task_id, token = id_of(delivered.task_id), got[0].token
            outcomes.settle(shard, WORKER, task_id, token, end, result, "", 0, 0.5, now)


def states(path: Path, shards: int) -> dict[str, int]:
    """Returns the number of tasks in each state."""
    counts = dict.fromkeys(STATES, 0)
    for shard in range(shards):
        _, summary = check_store(path if shards == 1 else shard_path(path, shard))
        for name in STATES:
            counts[name] += getattr(summary, name)
    return counts


def note(cpu: dict[str, float], step: str) -> None:
    """Notes the CPU time at which a step begins."""
    cpu[step] = time.process_time()


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=300_000)
    parser.add_argument("--to", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="codeq-reshard-"))
    try:
        path = folder / "store"
        machine = describe_machine(folder)
        fill(path, options.tasks)
        counts = states(path, 1)
        speeds, by_cpu, seconds = {}, {}, {}
        for before, to in pairwise([1, *options.to]):
            begun = time.monotonic()
            cpu: dict[str, float] = {}
            done = reshard(path, to, expected=before, step=partial(note, cpu))
            by_cpu[to] = round(done.tasks / (cpu["check"] - cpu["move"]))
            seconds[to] = round(time.monotonic() - begun, 1)
            speeds[to] = round(done.tasks / done.seconds)
            shutil.rmtree(done.before)
            if states(path, to) != counts:
                raise SystemExit(f"the change from {before} to {to} shards lost tasks or changed their states")
    finally:
        shutil.rmtree(folder)
    rss = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    line = {
        "bench": "reshard",
        "tasks": counts,
        "tasks_per_s": speeds,
        "tasks_per_cpu_s": by_cpu,
        "seconds": seconds,
        "rss_mb": rss,
    }
    text = json.dumps({**line, "commit": describe_commit(), "machine": machine})
    print(text)
    if options.save:
        with RESULTS.open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
