"""Checks that a server's memory stays flat under hours of load: streams and REST in turn, with a short retention.

    make compile && .venv/bin/python bench/memory.py --seconds 3600

Compiled code counts references itself, so only this check shows its leaks. Prints one JSON line; fails if the last
third of the run used more than FLAT_MAX of the middle third's memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from codeq_server import is_compiled
from measured_server import TOKEN, BenchError, MeasuredServer
from run import BUILD, COMMAND, Subject, build_load, growth, run_load

PART_SECONDS: Final = 20
RETENTION_SECONDS: Final = 5
FLAT_MAX: Final = 1.05


def measure(seconds: float) -> list[float]:
    """Loads a server in stages; returns the server's resident memory in MB after each stage.

    Raises:
        BenchError: The load failed.
    """
    program, sizes = build_load(), list[float]()
    with (
        tempfile.TemporaryDirectory(prefix="memory-", dir=BUILD) as folder,
        MeasuredServer(Path(folder), retention_seconds=RETENTION_SECONDS) as server,
    ):
        flags = ["-seconds", f"{PART_SECONDS}", "-warmup", "0", "-token", TOKEN, "-command", COMMAND]
        ways = (["stream", "-address", server.producer], ["rest", "-address", server.http, "-clients", "64"])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for way in ways:
                run_load([str(program), *way, "-worker-address", server.worker, *flags], Subject(server, None))
            sizes.append(round(server.rss_mb(), 1))
    return sizes


def main(arguments: list[str]) -> int:
    """Runs the load; returns 1 if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, help="length of the run (default 3600)")
    options = parser.parse_args(arguments)
    try:
        sizes = measure(options.seconds)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    grown = round(growth(sizes), 3) if len(sizes) >= 3 else None
    print(json.dumps({"bench": "memory", "compiled": is_compiled(), "growth": grown, "rss_mb": sizes}))
    return int(grown is None or grown > FLAT_MAX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
