"""Measures the SDKs against one node with fsync on, each in a program of its own language; prints one JSON line each.

    make bench-sdks                          Python, Go and TypeScript
    bench/sdks/run.py --sdks go --seconds 20

A cycle is a task that is created by a call of its own, delivered to a worker of the same process, and settled. Each
line has the cycles per second with `--callers` creates on their way, the CPU time of the client per cycle, and the
median times of a lone create and of a bare gRPC call that does the same. --save appends the lines to
bench/results/sdks.jsonl. Exit code 1: a figure misses its aim.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from measured_server import TOKEN, BenchError, MeasuredServer  # noqa: E402 - from the folder above
from run import BUILD, describe_commit, describe_machine, tell  # noqa: E402

CPU_AIMS_US: Final = {"python": 60.0, "go": 12.0, "ts": 35.0}
"""CPU time of the client per cycle that each SDK may take."""
LONE_AIM_MS: Final = 0.3
"""What a lone create may take more than a bare call."""
START_SECONDS_MAX: Final = 60.0


def program(name: str) -> list[str]:
    """Builds the program of an SDK, and returns the command that starts it."""
    here = ROOT / "bench" / "sdks" / name
    if name == "python":
        return [sys.executable, str(here / "bench.py")]
    if name == "ts":
        subprocess.run(["npm", "run", "--silent", "build"], cwd=ROOT / "sdks" / "ts", check=True)
        return ["node", str(here / "bench.mjs")]
    built = BUILD / "sdk-bench-go"
    subprocess.run(["go", "build", "-o", str(built), "."], cwd=here, check=True)
    return [str(built)]


def measure(name: str, callers: int, seconds: float) -> dict[str, Any]:
    """Returns the figures of an SDK.

    Raises:
        BenchError: The program failed.
    """
    command = program(name)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, MeasuredServer(Path(folder)) as server:
        flags = {"producer": server.producer, "worker": server.worker, "token": TOKEN}
        flags |= {"callers": str(callers), "seconds": f"{seconds:g}"}
        command += [part for flag, value in flags.items() for part in (f"--{flag}", value)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX + 10 * seconds,
            check=False,
        )
    if done.returncode:
        raise BenchError(f"{name}: {done.stderr or done.stdout}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return {"bench": "sdks", "sdk": name, **figures, "cpu_aim_us": CPU_AIMS_US[name]}


def is_good(figures: dict[str, Any]) -> bool:
    """Returns whether an SDK meets its aims."""
    lone = figures["lone_create_ms"] - figures["bare_call_ms"]
    return bool(figures["client_cpu_us_per_cycle"] <= figures["cpu_aim_us"] and lone <= LONE_AIM_MS)


def main() -> int:
    """Runs the benches; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures the SDKs; prints one JSON line each.")
    parser.add_argument("--sdks", nargs="+", choices=list(CPU_AIMS_US), default=list(CPU_AIMS_US), help="default all")
    parser.add_argument("--callers", type=int, default=256, help="creates on their way at once (default 256)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the measurement of cycles (default 8)")
    parser.add_argument("--save", action="store_true", help="append the results to bench/results")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    are_good = True
    for name in options.sdks:
        figures = measure(name, options.callers, options.seconds)
        are_good &= is_good(figures)
        tell("sdks", {**figures, "commit": describe_commit(), "machine": describe_machine(BUILD)}, save=options.save)
    return 0 if are_good else 1


if __name__ == "__main__":
    sys.exit(main())
