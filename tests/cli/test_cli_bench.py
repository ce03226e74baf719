"""codeq bench against a real server: what it counts, and what it says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from codeq_cli.bench.meter import Times
from recording_server import Run
from server_process import DEV_TOKEN, ServerProcess

SHORT = ("--seconds", "1", "--warmup", "0.2")


@pytest.fixture
def bench(run: Run, server: ServerProcess) -> Run:
    """Runs the command against a server."""

    def run_bench(*args: str) -> Any:
        addresses = {"CODEQ_PRODUCER_ADDR": server.producer_addr, "CODEQ_WORKER_ADDR": server.worker_addr}
        return run("bench", *args, **{"CODEQ_TOKEN": DEV_TOKEN} | addresses)

    return run_bench


@pytest.mark.parametrize("options", [(), ("--batch", "16", "--payload-bytes", "1000")])
def test_cycle_counts_acknowledged_tasks_and_the_clients_cpu(bench: Run, options: tuple[str, ...]) -> None:
    done = bench("cycle", *SHORT, *options)
    report = json.loads(done.stdout)
    assert (done.returncode, report["failed"], report["failures"]) == (0, 0, {})
    assert report["created"] > 50
    assert report["completed"] > 50
    assert report["createdPerSecond"] == pytest.approx(report["created"] / report["seconds"], rel=0.02)
    assert 0 < report["createP50Ms"] <= report["createP99Ms"] <= report["createMaxMs"]
    assert 0 < report["deliverP50Ms"] <= report["deliverMaxMs"]
    assert 0 < report["clientCpuSeconds"] < 10
    assert report["clientIsLimit"] == (b"the client used its core up" in done.stderr)


def test_no_task_of_a_cycle_is_left_behind(bench: Run, server: ServerProcess, run: Run) -> None:
    bench("cycle", *SHORT)
    client = {"CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}
    stats = json.loads(run("queue", "stats", "BENCH", **client).stdout)
    assert [stats[name] for name in ("ready", "claimed", "dlq")] == [0, 0, 0]


def test_create_needs_no_worker(bench: Run) -> None:
    report = json.loads(bench("create", *SHORT, "--callers", "4").stdout)
    assert report["created"] > 20
    assert "completed" not in report


def test_a_rate_is_kept(bench: Run) -> None:
    report = json.loads(bench("cycle", "--seconds", "2", "--warmup", "0.5", "--rate", "50").stdout)
    assert 80 <= report["created"] <= 120
    assert report["clientIsLimit"] is False


def test_a_rejected_token_and_a_missing_server_are_failures(bench: Run, run: Run, server: ServerProcess) -> None:
    done = run("bench", CODEQ_PRODUCER_ADDR=server.producer_addr, CODEQ_TOKEN="wrong")
    assert (done.returncode, done.stdout, b"UNAUTHENTICATED" in done.stderr) == (1, b"", True)
    done = run("bench", "--producer-addr", "127.0.0.1:1", CODEQ_TOKEN="wrong")
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1][:7]) == (4, b"", b"error: ")


@pytest.mark.parametrize("option", ["--producer-addr", "--worker-addr", "--command"])
def test_a_malformed_address_or_command_is_a_usage_error(bench: Run, option: str) -> None:
    done = bench(option, "a b")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


@pytest.mark.parametrize("option", ["--seconds", "--warmup", "--rate"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e9", "many"])
def test_only_numbers_in_range_are_accepted(run: Run, option: str, value: str) -> None:
    done = run("bench", f"{option}={value}")
    assert (done.returncode, done.stderr.decode().startswith(f"error: {option}: ")) == (2, True)


def test_tasks_that_reach_no_worker_are_cancelled_and_a_failure(bench: Run, server: ServerProcess, run: Run) -> None:
    done = bench("cycle", *SHORT, "--command", "DEAD", "--batch", "16", "--worker-addr", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"16 tasks were not delivered in time, and they are cancelled" in done.stderr
    client = {"CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}
    stats = json.loads(run("queue", "stats", "DEAD", **client).stdout)
    assert [stats[name] for name in ("ready", "claimed", "dlq")] == [0, 0, 0]


def test_percentiles_are_exact_to_two_per_cent() -> None:
    times = Times()
    assert times.percentile(0.5) is None
    for number in range(1, 1001):
        times.add(number / 1000)
    assert times.percentile(0.5) == pytest.approx(0.5, rel=0.02)
    assert times.percentile(0.99) == pytest.approx(0.99, rel=0.02)
    assert times.shown("x")["xMaxMs"] == 1000.0
