"""One simulated life of a node from a seed; from the command line: `make sim SEED=7`."""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import gc
import random
import sys
import time
from dataclasses import dataclass

import structlog
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.shard import ShardSettings
from sim_audit import RETENTION_MS, Audit, Violation
from sim_callers import produce_by_calls
from sim_clients import (
    World,
    look_around,
    produce_by_stream,
    resume_all,
    work_by_calls,
    work_by_stream,
)
from sim_loop import SimLoop, bury
from sim_node import Node
from sim_schedule_keeper import keep_schedule

FAULTY_SECONDS = 8.0
"""Simulated time with faults."""
CALM_SECONDS = 3600.0
"""Simulated time in which all remaining tasks must end."""
HOUR_MS = 3_600_000
QUEUE_IDLE_MS = 1_500
SCHEDULED_SEEDS = 3
"""One in this many seeds has schedules."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        violation: The broken promise; empty: none.
        digest: Hash over every durable batch.
        counts: Number of events by name.
        seconds: Simulated time.
    """

    violation: str
    digest: str
    counts: dict[str, int]
    seconds: float


class Simulation:
    """One run."""

    def __init__(self, seed: int, *, checked: bool) -> None:
        self.chance = chance = random.Random(seed)
        self.has_schedules = seed % SCHEDULED_SEEDS == 0
        self.loop = SimLoop(chance)
        self.audit = Audit(lambda: self.node.mono_ms(), checked=checked)  # noqa: PLW0108 - there is no node yet
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
        self.node = Node(self.loop, chance, self.audit, settings)
        self.world = World(self.node, self.audit, chance)

    def run(self) -> Outcome:
        """Runs to the end or to the first broken promise."""
        clients: list[asyncio.Task[None]] = []
        try:
            self.loop.run_until_complete(self.loop.create_task(self._main(clients), context=contextvars.Context()))
        except Violation:
            pass  # the audit has recorded it
        except Exception as problem:  # noqa: BLE001 - any exception counts as a broken promise
            self.node.problems.append(problem)
        violations = [*self.audit.violations, *map(repr, self.node.problems), *map(repr, self.loop.problems)]
        self._clean_up(clients)
        return Outcome(
            violations[0] if violations else "", self.audit.digest.hexdigest(), self.audit.counts, self.loop.seconds
        )

    async def _main(self, clients: list[asyncio.Task[None]]) -> None:
        world, node, chance = self.world, self.node, self.chance
        node.start()
        clients += [
            asyncio.ensure_future(client)
            for client in (
                produce_by_stream(world, "acme p"),
                produce_by_stream(world, "globex p"),
                produce_by_calls(world, "acme q"),
                produce_by_calls(world, "globex q"),
                work_by_stream(world, "acme w", "1"),
                work_by_stream(world, "acme w", "2"),
                work_by_stream(world, "globex w", ""),
                work_by_calls(world, "acme v"),
                work_by_calls(world, "globex v"),
                look_around(world, "acme p"),
                look_around(world, "globex p"),
            )
        ]
        if self.has_schedules:
            clients += [asyncio.ensure_future(keep_schedule(world, holder)) for holder in ("acme p", "globex p")]
        while self.loop.seconds < FAULTY_SECONDS:
            await self._until(self.loop.seconds + chance.expovariate(1.5))
            self._check(clients)
            await self._fault()
        world.asking = self.audit.calls.failing = False
        node.settle_clock()
        await self._drain(clients)
        self.audit.finish()

    async def _drain(self, clients: list[asyncio.Task[None]]) -> None:
        end = self.loop.seconds + CALM_SECONDS
        if self.node.server is None:
            self.node.start()
        while self.loop.seconds < end:
            await resume_all(self.world)
            await asyncio.sleep(1)
            self._check(clients)
            if self.loop.seconds > FAULTY_SECONDS + 10 and self.audit.is_over:
                return

    async def _until(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds - self.loop.seconds))

    def _check(self, clients: list[asyncio.Task[None]]) -> None:
        for client in clients:
            if client.done() and client.exception() is not None:
                raise client.exception()  # type: ignore[misc]
        if self.audit.violations or self.node.problems or self.loop.problems:
            raise Violation("stopped")

    async def _fault(self) -> None:
        """Injects a fault."""
        node, chance = self.node, self.chance
        match chance.choice(("crash", "crash", "power", "power", "clock", "slow", "step", "stop")):
            case "clock":
                node.wall_offset_ms += chance.choice((-HOUR_MS, HOUR_MS, -5000, 5000))
            case "slow":
                node.slow_down(chance.choice((0.1, 1, 20)))
            case "stop":
                await node.stop()
            case "step":
                # The server dies at the await that it reaches after this many callbacks.
                await self._crash_at(chance.randint(1, 40), power=chance.random() < 0.5)
            case kind:
                node.crash(power=kind == "power")
                await asyncio.sleep(chance.choice((0, 0.01, 0.5)))
        if node.server is None:
            node.start()

    async def _crash_at(self, steps: int, *, power: bool) -> None:
        process = self.node.process
        if process is None:
            return
        process.steps = steps
        process.out_of_steps = lambda: self.node.crash(power=power)
        await asyncio.sleep(0.2)
        process.steps = 0

    def _clean_up(self, clients: list[asyncio.Task[None]]) -> None:
        self.loop.go_on()  # a life may have used up its callbacks
        for client in clients:
            client.cancel()
        self.node.crash(power=False)
        if clients:
            self.loop.run_until_complete(asyncio.gather(*clients, return_exceptions=True))
        self.loop.over = True
        for process in self.node.dead:
            bury(process)
        self.loop.close()


def simulate(seed: int, *, checked: bool = True) -> Outcome:
    """Returns the outcome of a seed's run; with `checked`, inconsistent rows end it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    return Simulation(seed, checked=checked).run()


def main() -> int:
    """Runs seeds and prints each one that breaks a promise; returns the exit code."""
    parser = argparse.ArgumentParser(description="Simulates lives of a node.")
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
            sys.stdout.write(f"seed {seed}: {outcome.violation}\n")
    gc.collect()
    seconds = time.monotonic() - started
    sys.stdout.write(f"{options.count} seeds, {bad} bad, {options.count / seconds:.1f} per second; {counts}\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
