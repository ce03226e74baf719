"""One simulated life of a cluster from a seed; from the command line: `make sim-cluster SEED=7`."""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __name__ == "__main__":
    for _suite in ("sim", "raft"):
        sys.path.insert(0, str(Path(__file__).parent.parent / _suite))

import structlog
from cluster_faults import Faults
from cluster_front import Front
from cluster_machine import Machine
from cluster_members import Operator
from cluster_net import Net
from cluster_oracle import Oracle
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.shard import ShardSettings
from codeq_server.replication.raft import stored_log
from codeq_server.replication.raft.leadership import WINDOW
from sim_audit import RETENTION_MS, Audit, Violation
from sim_callers import produce_by_calls
from sim_clients import World, look_around, produce_by_stream, resume_all, work_by_calls, work_by_stream
from sim_loop import SimLoop, bury
from sim_run import QUEUE_IDLE_MS, Outcome

FAULTY_SECONDS = 15.0
"""Simulated time with faults."""
CALM_SECONDS = 600.0
"""Simulated time in which all remaining tasks must end."""
FIRST_SECONDS = 20.0
"""Simulated time in which a new cluster must elect a leader."""
LOGS = ((2 << 10, 8 << 10), (16 << 10, 64 << 10), (1 << 20, 4 << 20))
"""Lengths at which logs are compacted, and at which they are compacted even if members lack entries."""
CHECK_EVERY = 10


class Simulation:
    """One run."""

    def __init__(self, seed: int, folder: Path, *, checked: bool) -> None:
        self.chance = chance = random.Random(seed)
        self.loop = loop = SimLoop(chance)
        loop.in_one_piece = _in_one_piece
        self.audit = audit = Audit(lambda: int(loop.time() * 1000), checked=checked, window=WINDOW)
        settings = ShardSettings(
            max_attempts=3,
            backoff_policy=BackoffPolicy.EXP_FULL_JITTER,
            backoff_base_seconds=1,
            backoff_max_seconds=2,
            retention_ms=RETENTION_MS[False],
            dlq_retention_ms=RETENTION_MS[True],
            window_bytes_max=chance.choice((1, 1000, 1 << 20)),
            queue_idle_ms=QUEUE_IDLE_MS,
        )
        self.oracle = Oracle(audit)
        self.net = Net(loop, chance, self.oracle, folder)
        self.log_bytes = chance.choice(LOGS)
        names = "abcde"[: chance.choice((3, 3, 3, 5))]
        peers = {name: f"{name}:7000" for name in names}
        founders = chance.choice(("a", names, names[-1], names[1:]))
        if seed % 3 == 2:  # empty machines join by themselves
            self.net.admits, founders = True, "a"
        for name in names:
            Machine(self.net, name, peers, audit, settings, bootstrap=name in founders)
        self.front = Front(self.net, audit)
        self.world = World(self.front, audit, chance)  # type: ignore[arg-type]
        self.faults = Faults(self.net, audit, Operator(self.net, audit, settings, peers))

    def run(self) -> Outcome:
        """Runs to the end or to the first broken promise."""
        clients: list[asyncio.Task[None]] = []
        problems: list[Any] = []
        with ExitStack() as stack:
            stack.enter_context(
                patch.multiple(stored_log, LOG_BYTES=self.log_bytes[0], LOG_BYTES_MAX=self.log_bytes[1])
            )
            try:
                self.loop.run_until_complete(self.loop.create_task(self._main(clients), context=contextvars.Context()))
            except Violation:
                pass  # the audit has recorded it
            except Exception as problem:  # noqa: BLE001 - any exception counts as a broken promise
                problems.append(problem)
            problems += [problem for machine in self.net.machines.values() for problem in machine.problems]
            violations = [*self.audit.violations, *map(repr, problems), *map(repr, self.loop.problems)]
            self._clean_up(clients)
        return Outcome(
            violations[0] if violations else "", self.audit.digest.hexdigest(), self.audit.counts, self.loop.seconds
        )

    async def _main(self, clients: list[asyncio.Task[None]]) -> None:
        world, chance = self.world, self.chance
        for machine in self.net.machines.values():
            machine.start()
        await self._led()
        clients += [
            asyncio.ensure_future(client)
            for client in (
                produce_by_stream(world, "acme p"),
                produce_by_calls(world, "acme q"),
                produce_by_calls(world, "globex q"),
                work_by_stream(world, "acme w", "1"),
                work_by_stream(world, "globex w", ""),
                work_by_calls(world, "acme v"),
                work_by_calls(world, "globex v"),
                look_around(world, "acme p"),
                look_around(world, "globex p"),
                self.front.look(world, "acme p"),
                self.front.look(world, "globex p"),
            )
        ]
        end = self.loop.seconds + FAULTY_SECONDS
        while self.loop.seconds < end:
            await asyncio.sleep(chance.expovariate(chance.choice((0.5, 2, 4))))
            self._check(clients)
            await self.faults.strike()
        world.asking = self.audit.calls.failing = False
        await self.faults.heal()
        await self._led()
        await self._until(self.faults.repair, "a lost disk is not replaced")
        await self._drain(clients)
        self.audit.finish()
        await self._converge()

    async def _led(self) -> None:
        """Waits until a machine serves."""
        await self._until(lambda: any(machine.term for machine in self.net.machines.values()), "nobody leads")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition, which must hold soon."""
        end = self.loop.seconds + FIRST_SECONDS
        while not condition():
            self._check([])
            self.audit.demand(self.loop.seconds < end, what)
            await asyncio.sleep(0.1)

    async def _drain(self, clients: list[asyncio.Task[None]]) -> None:
        calm = self.loop.seconds
        while self.loop.seconds < calm + CALM_SECONDS:
            await resume_all(self.world)
            await asyncio.sleep(1)
            self._check(clients)
            if self.loop.seconds > calm + 5 and self.audit.is_over:
                return

    async def _converge(self) -> None:
        """Waits until every member has all decided entries; then all must have the same rows."""
        last = self.oracle.last
        await self._until(lambda: self.faults.members_have(last), f"members lack entries up to {last}")
        for machine in self.net.machines.values():
            self.oracle.check(machine.disk, offline=True)

    def _check(self, clients: list[asyncio.Task[None]]) -> None:
        for client in clients:
            if client.done() and client.exception() is not None:
                raise client.exception()  # type: ignore[misc]
        broken = any(machine.problems for machine in self.net.machines.values())
        if self.audit.violations or broken or self.loop.problems:
            raise Violation("stopped")

    def _clean_up(self, clients: list[asyncio.Task[None]]) -> None:
        self.loop.go_on()
        for client in clients:
            client.cancel()
        for machine in self.net.machines.values():
            machine.crash(power=False)
        if clients:
            self.loop.run_until_complete(asyncio.gather(*clients, return_exceptions=True))
        self.loop.over = True
        for machine in self.net.machines.values():
            for process in machine.dead:
                bury(process)
        self.loop.close()


def _in_one_piece(call: Callable[..., Any], args: Any) -> bool:
    """Returns whether a disk call is a plain write or a sync: these are frequent, and threads are slow."""
    name = call.__name__
    return name == "_sync" or (name == "_write" and args[1] is None)


def simulate(seed: int, *, checked: bool = True) -> Outcome:
    """Returns the outcome of a seed's run; with `checked`, inconsistent rows end it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        return Simulation(seed, Path(folder), checked=checked).run()


def main() -> int:
    """Runs seeds and prints each one that breaks a promise; returns the exit code."""
    parser = argparse.ArgumentParser(description="Simulates lives of a cluster.")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1, help="number of seeds")
    options = parser.parse_args()
    started, bad, counts = time.monotonic(), 0, dict[str, int]()
    for seed in range(options.seed, options.seed + options.count):
        outcome = simulate(seed)
        for what, often in outcome.counts.items():
            counts[what] = counts.get(what, 0) + often
        if outcome.violation:
            bad += 1
            sys.stdout.write(f"seed {seed}: {outcome.violation}; replay: make sim-cluster SEED={seed}\n")
    gc.collect()
    seconds = time.monotonic() - started
    sys.stdout.write(f"{options.count} seeds, {bad} bad, {options.count / seconds:.2f} per second; {counts}\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
