"""Works a million tasks through each SDK while connections are cut and the server is killed.

    make soak-sdks                                        a million tasks for each of Python, Go and TypeScript
    .venv/bin/python tests/conformance/soak.py --sdks go --tasks 50000

The driver of the SDK, the program that the conformance suite runs, creates tasks with request keys and works on them,
both through proxies that cut every connection every CUT_SECONDS. Every KILL_SECONDS the server is killed and started
again. Prints one JSON line per SDK: tasks created, deliveries, cuts, kills, and the driver's memory, threads and open
files after each chunk of tasks. Exit code 1: a task was lost or created twice, an error reached the program, or the
last third of the run used more than the third before it, by more than GROWTH_MAX (memory) or SPARE (threads, files).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import driver_builds
import httpx
from cutting_proxy import CuttingProxy
from driver_process import DriverProcess, environment
from server_process import DEV_TOKEN, ServerProcess

SDKS: Final = ("python", "go", "ts")
TASKS: Final = 1_000_000
CHUNK_TASKS: Final = 20_000
IN_FLIGHT: Final = 2048
CONCURRENCY: Final = 256
CUT_SECONDS: Final = 7.3
KILL_SECONDS: Final = 47.0
LEASE_SECONDS: Final = 20
RETENTION_SECONDS: Final = 60
CHUNK_SECONDS_MAX: Final = 300.0
DRAIN_SECONDS_MAX: Final = 120.0
GROWTH_MAX: Final = 1.10
SPARE: Final = 4
PARTS: Final = 3


class Killer(threading.Thread):
    """Kills and restarts a server at an interval until `end`."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self._server = server
        self._enough = threading.Event()

    def run(self) -> None:
        """Kills until told to end."""
        while not self._enough.wait(KILL_SECONDS):
            self._server.kill()
            self._server.start()
            self.kills += 1

    def end(self) -> None:
        """Ends after the current restart."""
        self._enough.set()
        self.join()


def soak(name: str, tasks: int, folder: Path) -> dict[str, Any]:
    """Runs the tasks through the driver of an SDK and returns what came of them."""
    command = driver_builds.command(name, folder)
    cuts_max = sys.maxsize
    with (
        ServerProcess(folder / "server", env={"RETENTION_SECONDS": str(RETENTION_SECONDS)}) as server,
        CuttingProxy(server.producer_addr, CUT_SECONDS, cuts_max) as to_producers,
        CuttingProxy(server.worker_addr, CUT_SECONDS, cuts_max) as to_workers,
    ):
        driver = DriverProcess(name, command, environment(), folder / "driver.log")
        try:
            result = _work(driver, server, to_producers.address, to_workers.address, tasks)
        finally:
            driver.close()
        return {"sdk": name} | result | {"cuts": to_producers.cuts + to_workers.cuts}


def _work(driver: DriverProcess, server: ServerProcess, producers: str, workers: str, tasks: int) -> dict[str, Any]:
    """Creates and works on the tasks, chunk by chunk."""
    token = {"token": DEV_TOKEN}
    behaviour = [{"match": {}, "do": ["complete", 1]}]
    worker = {"name": "w", "addresses": [workers], "concurrency": CONCURRENCY, "leaseSeconds": LEASE_SECONDS}
    driver.call("worker.run", worker | token | {"behaviour": behaviour})
    driver.call(
        "producer.open", {"name": "p", "addresses": [producers], "requestKeys": True, "timeoutSeconds": 60} | token
    )
    killer = Killer(server)
    killer.start()
    made, errors, deliveries = 0, list[Any](), 0
    usage: dict[str, list[float]] = {"rssBytes": [], "threads": [], "openFiles": []}
    began = time.monotonic()
    try:
        while made < tasks and not errors:
            load = {"name": "p", "count": CHUNK_TASKS, "inFlight": IN_FLIGHT}
            template = {"command": "SOAK", "payload": {"n": made}}
            got = driver.call("producer.create_all", load | {"template": template}, CHUNK_SECONDS_MAX)
            errors += [each for each in got["errors"] if each]
            made += len({each for each in got["ids"] if each})
            deliveries += sum(event["event"] == "task" for event in driver.events)
            driver.events.clear()
            now = driver.call("stats", {})
            for each, values in usage.items():
                values.append(now[each])
    finally:
        killer.end()
    took = time.monotonic() - began
    told = _drain(server, made)
    return {
        "tasks": made,
        "errors": errors[:3],
        "createdTotal": int(told["createdTotal"]),
        "completedTotal": int(told["completedTotal"]),
        "deliveries": deliveries + sum(event["event"] == "task" for event in driver.events),
        "kills": killer.kills,
        "seconds": round(took, 1),
        "usage": usage,
    }


def _drain(server: ServerProcess, made: int) -> Mapping[str, Any]:
    """Waits until all tasks are completed, or the time is up; returns the tenant's usage."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while True:
        headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
        told: Mapping[str, Any] = httpx.get(f"{server.http_url}/v1/codeq/usage", headers=headers).json()["usage"]
        if int(told["completedTotal"]) >= made or time.monotonic() > deadline:
            return told
        time.sleep(0.5)


def problems(result: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with a run."""
    found = [f"an error reached the program: {error}" for error in result["errors"]]
    found += [
        f"{name} is {result[name]}, and {result['tasks']} tasks were created"
        for name in ("createdTotal", "completedTotal")
        if result[name] != result["tasks"]
    ]
    for name, values in result["usage"].items():
        part = len(values) // PARTS
        if not part:
            continue
        before, last = statistics.mean(values[part : 2 * part]), statistics.mean(values[2 * part :])
        allowed = before * GROWTH_MAX if name == "rssBytes" else before + SPARE
        if last > allowed:
            found.append(f"{name} grew from {before:g} to {last:g}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Runs the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description="Works tasks through the SDKs while connections are cut.")
    parser.add_argument("--sdks", nargs="+", choices=SDKS, default=list(SDKS), help="SDKs (default all)")
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks for each (default a million)")
    options = parser.parse_args(arguments)
    bad = False
    for name in options.sdks:
        with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as folder:
            result = soak(name, options.tasks, Path(folder))
        found = problems(result)
        print(json.dumps(result | {"problems": found}), flush=True)
        bad |= bool(found)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
