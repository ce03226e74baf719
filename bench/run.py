"""Measures one node, or three: starts fresh servers with fsync on, loads them, checks the counts, prints one JSON line.

    bench/run.py single                            frames of 64 over gRPC streams
    bench/run.py single --lone 32                  single-task callers, coalesced into frames
    bench/run.py single --retention 5 --seconds 60 ended tasks deleted after 5 s: the store must stay flat
    bench/run.py rest                              32, then 256 keep-alive HTTP clients, one line each
    bench/run.py rest --clients 32
    bench/run.py rest --apart                      with a standalone gateway
    bench/run.py rest --tls                        over TLS; also with single
    bench/run.py single --rate-limits              with rate limits far above the load; also with rest
    bench/run.py single --shards 2 --direct        several shards, with streams to each; without --direct one to any
    bench/run.py single --unscraped                without reading metrics, which is when servers begin to count times
    bench/run.py single --traces 100               traces are exported; one task in 100 is part of a recorded one
    bench/run.py raft                              three nodes of a Raft cluster, gRPC streams to the leader
    bench/run.py raft --lone 1                     one single-task caller; with --clients 1 one over REST

Every figure counts acknowledged work only. Load and servers share the machine; the nodes of a cluster also share the
disk. --save appends the line to bench/results/<bench>.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
from collector import collecting
from measured_cluster import MeasuredCluster
from measured_server import ROOT, TOKEN, BenchError, MeasuredServer, Reading, certificate, gateway_of

COMMAND: Final = "BENCH"
BUILD: Final = ROOT / "build"
RESULTS: Final = ROOT / "bench" / "results"
SAMPLE_SECONDS: Final = 1.0
FLAT_GROWTH_MAX: Final = 1.5
"""A store is flat if its mean size over the last third of the run is at most this multiple of the middle third's."""

_UNREACHED: Final = {"requestsPerMinute": 1_000_000_000, "burstSize": 1_000_000_000}
UNREACHED: Final = {"RATE_LIMIT": json.dumps(dict.fromkeys(("producer", "worker", "admin"), _UNREACHED))}
"""Rate limits that no load reaches, to measure what they cost."""

Readings = dict[str, Reading]
"""Resources used by each server, by name."""

_STREAM_FLAGS: Final = ("frame", "inflight", "credits", "backlog", "producers", "workers", "lone")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options of the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seconds", type=float, default=8.0, help="measured window (default 8)")
    common.add_argument("--warmup", type=float, default=2.0, help="seconds before that window (default 2)")
    common.add_argument("--retention", type=int, help="seconds to keep ended tasks (default: the server's)")
    common.add_argument("--no-fsync", action="store_true", help="acknowledge before data is on disk")
    common.add_argument("--directory", type=Path, default=BUILD, help="parent folder of the store (default build/)")
    common.add_argument("--save", action="store_true", help="append the result to bench/results")
    parser = argparse.ArgumentParser(description="Measures one node, or three; prints one JSON line.")
    benches = parser.add_subparsers(dest="bench", required=True)
    single = benches.add_parser("single", parents=[common], help="gRPC streams")
    raft = benches.add_parser("raft", parents=[common], help="three nodes, gRPC streams to the leader")
    for streams in (single, raft):
        for name in _STREAM_FLAGS:
            streams.add_argument(f"--{name}", type=int, help="as in bench/load")
    raft.add_argument("--clients", type=int, nargs="+", default=[], help="keep-alive HTTP clients instead of streams")
    rest = benches.add_parser("rest", parents=[common], help="keep-alive HTTP clients")
    rest.add_argument("--clients", type=int, nargs="+", default=[32, 256], help="numbers of clients (default 32 256)")
    for secured in (single, rest):
        secured.add_argument("--tls", action="store_true", help="encrypt; not with --apart")
        secured.add_argument("--rate-limits", action="store_true", help="turn rate limits on that are never reached")
        secured.add_argument("--unscraped", action="store_true", help="read no metrics; row operations are unknown")
        secured.add_argument("--shards", type=int, default=1, help="shards, each with a process (default 1)")
    single.add_argument("--direct", action="store_true", help="open the load's streams to the process of each shard")
    single.add_argument("--traces", type=int, metavar="TASKS", help="export traces; one in this many tasks is recorded")
    rest.add_argument("--apart", action="store_true", help="run a standalone gateway")
    options = parser.parse_args(arguments)
    if getattr(options, "direct", False) and options.shards < 2:
        parser.error("--direct needs --shards of at least 2")
    return options


def build_load() -> Path:
    """Builds the load generator and returns its path.

    Raises:
        BenchError: The Go toolchain is missing, or the build failed.
    """
    if shutil.which("go") is None:
        raise BenchError("the Go toolchain is missing: https://go.dev/doc/install")
    BUILD.mkdir(exist_ok=True)
    program, unfinished = BUILD / "load", BUILD / f"load.{os.getpid()}"  # another run may be using the old program
    command = ["go", "build", "-C", str(ROOT / "bench" / "load"), "-o", str(unfinished), "."]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"the build of the load generator failed:\n{done.stderr}")
    return unfinished.replace(program)


class Subject:
    """The measured servers: the server under load, and its followers if it leads a cluster.

    Args:
        server: The server under load.
        cluster: The cluster that the server leads; None: a single node.
    """

    def __init__(self, server: MeasuredServer, cluster: MeasuredCluster | None) -> None:
        self.server = server
        self._cluster = cluster
        self._nodes = {"": server} if cluster is None else cluster.nodes

    @classmethod
    @contextmanager
    def started(cls, options: argparse.Namespace, directory: Path) -> Iterator[Subject]:
        """Yields the servers that the options ask for, with empty stores, ready for load."""
        fsync, retention = not options.no_fsync, options.retention
        traces = getattr(options, "traces", None)
        if options.bench == "raft":
            with MeasuredCluster(directory, fsync=fsync, retention_seconds=retention) as cluster:
                yield cls(cluster.nodes[cluster.leader()], cluster)
        else:
            more = certificate(directory) if options.tls else {}
            more |= UNREACHED if options.rate_limits else {}
            with ExitStack() as stack:
                if traces is not None:
                    collector = stack.enter_context(collecting())
                    more |= {"TRACING_ENABLED": "true", "TRACING_OTLP_ENDPOINT": collector.url}
                measured = MeasuredServer(
                    directory, fsync=fsync, retention_seconds=retention, shards=options.shards, more=more
                )
                measured.is_scraped = not options.unscraped
                yield cls(stack.enter_context(measured), None)
            if traces is not None and not collector.exports:
                raise BenchError("no traces were exported")

    def read(self) -> dict[str, Reading]:
        """Returns the resources that each node has used so far, beginning with the node under load."""
        self.check_leader()
        return {name: node.read() for name, node in self._leader_first()}

    def check_leader(self) -> None:
        """Checks that the node under load still leads.

        Raises:
            BenchError: The node no longer leads, so the figures would include an election.
        """
        if self._cluster is not None and self._nodes.get(self._cluster.leader()) is not self.server:
            raise BenchError(f"the leader changed during the run:\n{self.server.log}")

    def line(self, before: dict[str, Reading], after: dict[str, Reading], cycles: int) -> dict[str, object]:
        """Returns the figures of each node of a cluster; empty for a single node."""
        if self._cluster is None:
            return {}
        used = {name: after[name].cpu_seconds - before[name].cpu_seconds for name in after}
        cpu = {name: round(seconds * 1e6 / cycles, 2) for name, seconds in used.items()}
        rss = {name: round(node.rss_mb(), 1) for name, node in self._leader_first()}
        return {"nodes": len(self._nodes), "node_cpu_us_per_cycle": cpu, "node_rss_mb": rss}

    def _leader_first(self) -> list[tuple[str, MeasuredServer]]:
        return sorted(self._nodes.items(), key=lambda pair: (pair[1] is not self.server, pair[0]))


@contextmanager
def store_sizes(server: MeasuredServer) -> Iterator[list[float]]:
    """Samples the size of the store every second within the block; yields the growing list in megabytes."""
    sizes: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            sizes.append(round(server.store_mb(), 1))

    sampler = threading.Thread(target=sample, name="store sizes")
    sampler.start()
    try:
        yield sizes
    finally:
        ended.set()
        sampler.join()


def run_load(command: list[str], subject: Subject) -> tuple[dict[str, object], Readings, Readings]:
    """Runs the load; returns its result and the servers' readings at both ends of the measured window.

    Raises:
        BenchError: The load failed.
    """
    readings = {}
    result: dict[str, object] | None = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        assert load.stderr is not None
        for line in load.stdout:
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "result":
                result = event
            else:
                readings[kind] = subject.read()
        complaint = load.stderr.read()
    if load.returncode != 0 or result is None:
        raise BenchError(f"the load failed:\n{complaint}the server's log ends with:\n{subject.server.log}")
    return result, readings["started"], readings["stopped"]


def check_counts(load: dict[str, object], queue: dict[str, int]) -> None:
    """Checks that every acknowledged create is completed or still queued.

    Raises:
        BenchError: A create is missing, or requests were rejected or unanswered.
    """
    unwanted = {name: load[name] for name in ("refused", "frames_unanswered", "outcomes_unanswered") if load[name]}
    if unwanted:
        raise BenchError(f"not everything was acknowledged: {unwanted}")
    accounted = int(str(load["completed"])) + sum(queue.values())
    if load["created"] != accounted:
        raise BenchError(
            f"the counts do not add up: created {load['created']}, completed {load['completed']}, queue {queue}"
        )


def growth(sizes: list[float]) -> float:
    """Returns the mean size over the last third of a run divided by that of the middle third."""
    third = len(sizes) // 3
    middle, last = sizes[third : 2 * third], sizes[2 * third :]
    return (sum(last) / len(last)) / max(sum(middle) / len(middle), 0.1)


def measure(options: argparse.Namespace, program: Path, load_flags: list[str]) -> dict[str, object]:
    """Runs one measurement and returns its line.

    Raises:
        BenchError: The measurement failed, or its counts do not add up.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(options.directory)
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=options.directory))
    try:
        with (
            Subject.started(options, directory) as subject,
            store_sizes(subject.server) as sizes,
            ExitStack() as stack,
        ):
            server = subject.server
            fsync = server.fsync()
            mode = "rest" if getattr(options, "clients", None) else "stream"
            address = server.http if mode == "rest" else server.producer
            if getattr(options, "apart", False):
                address = stack.enter_context(gateway_of(server, directory))
            command = [str(program), mode, "-address", address, "-worker-address", server.worker, *load_flags]
            is_secured = getattr(options, "tls", False)
            command += ["-tls"] if is_secured else []
            load, before, after = run_load([*command, "-token", TOKEN, "-command", COMMAND], subject)
            queue = server.queue_counts(COMMAND)
            subject.check_leader()
            nodes = subject.line(before, after, max(int(str(load["window_cycles"])), 1))
            rss_mb = server.rss_mb()
            store_mb = server.store_mb()
    finally:
        shutil.rmtree(directory)
    check_counts(load, queue)
    line = line_of(load, *(next(iter(readings.values())) for readings in (before, after))) | {
        **nodes,
        "rss_mb": round(rss_mb, 1),
        "store_mb": round(store_mb, 1),
        "fsync": fsync,
        "flags": load_flags,
        "counts": {"created": load["created"], "completed": load["completed"], **queue},
        "commit": describe_commit(),
        "machine": machine,
    }
    if options.retention is not None:
        line |= {"retention_s": options.retention, "store_mb_each_second": sizes}
        if len(sizes) >= 3 * options.retention:
            line["store_growth"] = round(growth(sizes), 2)
    if getattr(options, "apart", False):
        line["apart"] = True
    if is_secured:
        line["tls"] = True
    if getattr(options, "shards", 1) > 1:
        line["shards"] = options.shards
    return {"bench": options.bench, **line}


def line_of(load: dict[str, object], before: Reading, after: Reading) -> dict[str, object]:
    """Returns the figures of the measured window."""
    names = ("cycles_per_s", "creates_per_s", "create_p50_ms", "create_p99_ms", "delivery_p50_ms", "delivery_p99_ms")
    line: dict[str, object] = {name: round(float(str(load[name])), 3 if name.endswith("_ms") else 0) for name in names}
    cycles = max(int(str(load["window_cycles"])), 1)
    line["server_cpu_us_per_cycle"] = round((after.cpu_seconds - before.cpu_seconds) * 1e6 / cycles, 2)
    counted = before.rows is not None and after.rows is not None
    line["row_ops_per_cycle"] = round(((after.rows or 0) - (before.rows or 0)) / cycles, 2) if counted else None
    return line


def describe_commit() -> str:
    """Returns the abbreviated commit of the checkout, with a mark if files differ from the commit."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def describe_machine(directory: Path) -> dict[str, object]:
    """Returns the context needed to compare figures: CPU, memory, the store's file system, current load."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    mounts = [part for part in psutil.disk_partitions(all=True) if directory.resolve().is_relative_to(part.mountpoint)]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else None,
        "load_average": round(os.getloadavg()[0], 2),
    }


def percentiles(times_ms: Iterable[float], digits: int = 1) -> dict[str, float]:
    """Returns p50, p99 and maximum of times in milliseconds, at least one, rounded to this many digits."""
    ordered = sorted(times_ms)
    parts = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {
        name: round(ordered[min(int(part * len(ordered)), len(ordered) - 1)], digits) for name, part in parts.items()
    }


def tell(bench: str, line: Mapping[str, object], *, save: bool) -> None:
    """Prints the figures of a bench as one line of JSON, and appends the line to the bench's results if asked to."""
    text = json.dumps(line)
    print(text, flush=True)
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{bench}.jsonl").open("a") as results:
            results.write(text + "\n")


def flags_of(options: argparse.Namespace) -> list[list[str]]:
    """Returns the flags of the load, once for each measurement."""
    window = ["-seconds", f"{options.seconds:g}", "-warmup", f"{options.warmup:g}"]
    if getattr(options, "clients", None):
        return [[*window, "-clients", str(clients)] for clients in options.clients]
    given = [(name, getattr(options, name)) for name in _STREAM_FLAGS]
    given.append(("shards", options.shards if getattr(options, "direct", False) else None))
    given.append(("sampled", getattr(options, "traces", None)))
    return [[*window, *(text for name, value in given if value is not None for text in (f"-{name}", str(value)))]]


def main(arguments: list[str]) -> int:
    """Runs the measurements; returns the exit code."""
    options = parse(arguments)
    try:
        program = build_load()
        for load_flags in flags_of(options):
            line = measure(options, program, load_flags)
            tell(options.bench, line, save=options.save)
            if float(str(line.get("store_growth", 0))) > FLAT_GROWTH_MAX:
                raise BenchError(f"the store is not flat: {line['store_mb_each_second']} MB")  # noqa: TRY301
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
