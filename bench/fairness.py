"""Measures how another tenant's flood affects a quiet tenant.

    bench/fairness.py                              200 producer streams and 100 worker streams flood the server
    bench/fairness.py --producers 50 --frame 256

The quiet tenant creates, claims and completes one task at a time, first alone and then during the flood. Prints one
JSON line: p50, p99 and maximum of its calls in milliseconds, alone and during the flood, and the flood's throughput.
The load generator runs at low priority (nice), so that callers wait for the server and not for the generator.
--save appends the line to bench/results/fairness.jsonl. Exit code 1: a p99 during the flood exceeds the target.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from measured_server import BenchError, MeasuredServer
from probe import TENANT, Latencies, for_seconds, probe
from run import BUILD, build_load, describe_commit, describe_machine, tell

FLOODING: Final = "flood"
"""Tenant of the flood, and its token."""
BACKLOG: Final = 1 << 30
"""Backlog at which the flood would pause; it is never reached."""
WARMUP_SECONDS: Final = 3.0
FLOOD_SECONDS_MAX: Final = 3600
GENTLE: Final = 10
"""Niceness of the load generator."""
P99_AIM_MS: Final = 200.0
OF_TASKS: Final = ("codeq_task_created_total", "codeq_task_completed_total")


@contextmanager
def flood(server: MeasuredServer, options: argparse.Namespace) -> Iterator[None]:
    """Floods the server within the block.

    Raises:
        BenchError: The flood ended by itself.
    """
    command = ["nice", "-n", str(GENTLE), str(build_load()), "stream", "-address", server.producer]
    command += ["-worker-address", server.worker, "-token", FLOODING, "-command", "FLOOD"]
    command += ["-seconds", str(FLOOD_SECONDS_MAX), "-backlog", str(BACKLOG)]
    for name in ("producers", "workers", "frame", "inflight"):
        command += [f"-{name}", str(getattr(options, name))]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            time.sleep(WARMUP_SECONDS)
            yield
            if process.poll() is not None:
                output.seek(0)
                raise BenchError(f"the flood ended: {output.read().decode()}")
        finally:
            process.kill()
            process.wait()


def counters(server: MeasuredServer) -> dict[str, float]:
    """Returns the counters without labels, and those of tasks over all commands."""
    return server.counters() | {name: float(server.total(name) or 0) for name in OF_TASKS}


def measure(directory: Path, options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of the quiet tenant and of the flood."""
    with MeasuredServer(directory, tenants=(TENANT, FLOODING)) as server:
        alone = asyncio.run(probe(server.producer, for_seconds(options.seconds)))
        with flood(server, options):
            before, began = counters(server), time.monotonic()
            beside = asyncio.run(probe(server.producer, for_seconds(options.seconds)))
            after, seconds = counters(server), time.monotonic() - began
        rss_mb = server.rss_mb()
    grown = {name: (after[name] - before[name]) / seconds for name in after}
    commits = max(grown["codeq_commit_seconds_count"], 1e-9)
    return {
        "bench": "fairness",
        "alone": alone,
        "beside": beside,
        "flood": {
            "created_per_s": round(grown["codeq_task_created_total"]),
            "completed_per_s": round(grown["codeq_task_completed_total"]),
            "commits_per_s": round(commits, 1),
            "rows_per_commit": round(grown["codeq_rows_written_total"] / commits),
            "commit_ms": round(grown["codeq_commit_seconds_sum"] / commits * 1000, 1),
        },
        "rss_mb": round(rss_mb, 1),
        "worst_p99_ms": Latencies.worst_p99(beside),
        "aim_p99_ms": P99_AIM_MS,
        "flags": {name: getattr(options, name) for name in ("producers", "workers", "frame", "inflight", "seconds")},
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def main() -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures a quiet tenant during a flood; prints one JSON line.")
    parser.add_argument("--producers", type=int, default=200, help="producer streams of the flood (default 200)")
    parser.add_argument("--workers", type=int, default=100, help="worker streams of the flood (default 100)")
    parser.add_argument("--frame", type=int, default=64, help="tasks per frame (default 64)")
    parser.add_argument("--inflight", type=int, default=256, help="unanswered frames per producer (default 256)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each half (default 10)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        result = measure(Path(directory), options)
    tell("fairness", result, save=options.save)
    return 0 if float(str(result["worst_p99_ms"])) <= P99_AIM_MS else 1


if __name__ == "__main__":
    sys.exit(main())
