"""The benchmark driver measures a real server, and rejects figures whose counts do not add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import compare  # noqa: E402 - the folder of the driver is no package
import run  # noqa: E402
from measured_server import BenchError  # noqa: E402


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("bench", "flags"),
    [
        ("single", ["--frame", "8"]),
        ("single", ["--frame", "8", "--traces", "10"]),
        ("rest", ["--clients", "4", "--rate-limits"]),
    ],
)
def test_short_run_prints_one_line_of_consistent_figures(tmp_path: Path, bench: str, flags: list[str]) -> None:
    command = [sys.executable, str(BENCH / "run.py"), bench, "--seconds", "0.5", "--warmup", "0.1", *flags]
    done = subprocess.run([*command, "--directory", tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["bench"] == bench
    assert line["fsync"] is True
    assert line["cycles_per_s"] > 0
    assert 0 < line["create_p50_ms"] <= line["create_p99_ms"]
    assert 0 < line["delivery_p50_ms"] <= line["delivery_p99_ms"]
    assert line["row_ops_per_cycle"] > 0
    assert line["server_cpu_us_per_cycle"] > 0
    assert list(tmp_path.iterdir()) == []


def test_streams_to_each_shard_need_several_shards(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parse(["single", "--direct"])
    assert "--direct needs --shards of at least 2" in capsys.readouterr().err


@pytest.mark.timeout(180)
def test_unscraped_run_has_no_row_operations(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "run.py"), "single", "--seconds", "0.5", "--warmup", "0.1", "--unscraped"]
    done = subprocess.run([*command, "--directory", tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["cycles_per_s"] > 0
    assert line["server_cpu_us_per_cycle"] > 0
    assert line["row_ops_per_cycle"] is None


@pytest.mark.timeout(180)
@pytest.mark.parametrize("flags", [["--frame", "8"], ["--clients", "1"]])
def test_short_cluster_run_prints_one_line_with_the_figures_of_each_node(tmp_path: Path, flags: list[str]) -> None:
    command = [sys.executable, str(BENCH / "run.py"), "raft", "--seconds", "0.5", "--warmup", "0.1", *flags]
    done = subprocess.run([*command, "--directory", tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["bench"], line["nodes"], line["fsync"]) == ("raft", 3, True)
    assert line["cycles_per_s"] > 0
    assert 0 < line["create_p50_ms"] <= line["create_p99_ms"]
    for figures in (line["node_cpu_us_per_cycle"], line["node_rss_mb"]):
        assert sorted(figures) == ["node-a", "node-b", "node-c"]
        assert min(figures.values()) > 0
    assert line["server_cpu_us_per_cycle"] == next(iter(line["node_cpu_us_per_cycle"].values()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(180)
def test_small_bench_of_tenants_finds_all_of_them_again_after_a_kill() -> None:
    command = [sys.executable, str(BENCH / "tenants.py"), "--tenants", "150"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["bench"], line["tenants"]) == ("tenants", 150)
    assert min(line["rss_mb"], line["start_seconds"], line["list_ms"]) > 0


@pytest.mark.timeout(180)
def test_small_depth_bench_prints_one_line_of_figures(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "depth.py"), "--tasks", "2000", "--queues", "4", "--directory", tmp_path]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["tasks"], line["queues"], line["in_order"]) == (2000, 4, True)
    claims = ("claim_p99_ms", "claim_cold_p99_ms", "claim_loaded_p99_ms")
    for figure in ("creates_ratio", "rss_mb", "rss_after_restart_mb", "start_seconds", *claims):
        assert line[figure] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(180)
def test_short_bench_of_rate_limits_counts_every_refusal() -> None:
    flags = ["--seconds", "1", "--rate", "50", "--times", "4"]
    done = subprocess.run(
        [sys.executable, str(BENCH / "rates.py"), *flags], check=False, capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    flood = line["flood"]
    assert 0 < flood["accepted"] <= flood["allowed"]
    assert flood["refused"] == flood["refused_by_metric"] > 0
    assert line["alone"]["tasks"] > 0
    assert line["beside"]["tasks"] > 0
    assert done.returncode == (0 if line["worst_p99_ms"] <= line["aim_p99_ms"] else 1)


@pytest.mark.timeout(180)
def test_short_bench_of_keys_claims_every_free_key_and_loses_no_task() -> None:
    flags = ["--keys", "300", "--hot", "300", "--runs", "1", "--seconds", "0.5"]
    done = subprocess.run([sys.executable, str(BENCH / "keys.py"), *flags], check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    claims, throughput = line["claims"], line["throughput"]
    assert claims["claims"] == 300
    assert 0 < claims["p50_ms"] <= claims["p99_ms"] <= claims["max_ms"]
    assert set(throughput["cycles_per_s"]) == {"plain", "unlimited", "limited"}
    assert min(throughput["cycles_per_s"].values()) > 0
    good = claims["p99_ms"] <= line["aim_p99_ms"] and throughput["ratio_to_unlimited"] >= line["aim_ratio"]
    assert done.returncode == (0 if good else 1)


@pytest.mark.timeout(180)
def test_short_fairness_bench_prints_one_line_of_figures() -> None:
    flags = ["--seconds", "1", "--producers", "2", "--workers", "1", "--inflight", "2"]
    done = subprocess.run(
        [sys.executable, str(BENCH / "fairness.py"), *flags], check=False, capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    for part in ("alone", "beside"):
        assert line[part]["tasks"] > 0
        assert 0 < line[part]["create_p50_ms"] <= line[part]["create_p99_ms"] <= line[part]["create_max_ms"]
    assert line["flood"]["created_per_s"] > 0
    assert done.returncode == (0 if line["worst_p99_ms"] <= line["aim_p99_ms"] else 1)


@pytest.mark.timeout(180)
def test_small_bench_of_schedules_finds_one_task_per_instant() -> None:
    flags = ["--schedules", "20", "--period", "2", "--fires", "5"]
    done = subprocess.run(
        [sys.executable, str(BENCH / "schedules.py"), *flags], check=False, capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    assert (line["late"]["tasks"], line["wanted"], line["twice"]) == (100, 100, 0)
    assert 0 <= line["late"]["p50_ms"] <= line["late"]["p99_ms"] <= line["late"]["max_ms"]
    assert [each["tasks"] for each in line["late_by_instant"]] == [20] * 5
    assert line["beside"]["tasks"] > 0
    assert done.returncode == (0 if line["late"]["max_ms"] <= line["aim_max_ms"] else 1)


@pytest.mark.timeout(180)
def test_small_bench_of_signals_finds_the_last_edge_of_every_subscription() -> None:
    flags = ["--subscriptions", "20", "--rate", "500", "--interval", "1", "--seconds", "2", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, str(BENCH / "signals.py"), *flags], check=False, capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    assert line["unsignalled"] == 0
    assert 20 <= line["signals"] == line["counted_by_metric"]
    assert line["spacing_min_s"] > 0.9
    assert 0 < line["edges_per_s"] <= 550
    for tenants in (line["create_p50_ms"], line["create_p99_ms"]):
        assert min(tenants["with"], tenants["without"]) > 0


@pytest.mark.timeout(180)
def test_short_hostile_bench_prints_one_line_of_figures() -> None:
    command = [sys.executable, str(BENCH / "hostile.py"), "--seconds", "2", "--callers", "1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    for part in ("alone", "beside"):
        assert line[part]["creates"] > 0
        assert 0 < line[part]["p50_ms"] <= line[part]["p99_ms"] <= line[part]["max_ms"]
    assert sum(line["sent"].values()) > 0
    assert line["log_lines"] <= line["aims"]["log_lines"]
    assert done.returncode == (0 if line["beside"]["p99_ms"] <= line["aims"]["p99_ms"] else 1)


@pytest.mark.timeout(180)
def test_small_herd_bench_prints_one_line_of_figures() -> None:
    command = [sys.executable, str(BENCH / "herd.py"), "--tasks", "2000", "--leases", "500"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    assert isinstance(line["leased_mb"], float)
    for part, count in (("delayed", 2000), ("leases", 500)):
        assert line[part]["count"] == count
        assert line[part]["per_s"] > 0
        assert 0 < line[part]["calls"]["complete_p50_ms"] <= line[part]["calls"]["complete_p99_ms"]


@pytest.mark.timeout(180)
def test_short_idle_bench_prints_one_line_of_figures() -> None:
    command = [sys.executable, str(BENCH / "idle.py"), "--waiters", "40", "--seconds", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    line = json.loads(done.stdout)
    assert line["waiters"] == 40
    for way in ("rest", "grpc", "streams"):
        assert line[way]["cpu_percent"] >= 0
        assert line[way]["rss_mb"] > 0
    assert line["rest"]["renewals_per_s"] > 0
    assert line["grpc"]["renewals_per_s"] > 0


@pytest.mark.timeout(180)
def test_short_callbacks_bench_prints_one_line_of_figures_for_each_part() -> None:
    flags = ["--tasks", "200", "--rate", "200", "--seconds", "1", "--hosts", "4"]
    command = [sys.executable, str(BENCH / "callbacks.py"), *flags]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    drain, outage, dead_host = (json.loads(line) for line in done.stdout.splitlines())
    assert 0 < drain["queued"] <= drain["tasks"] == 200
    assert min(drain["deliveries_per_s"], drain["deliveries_per_core_s"]) > 0
    assert outage["callbacks"] >= 400
    assert outage["exactly_once"] == 1
    assert min(outage["create_p99_ms"].values()) > 0
    assert (dead_host["served_hosts"], dead_host["repeated"]) == (2, 0)
    assert 0 < dead_host["lag_p50_ms"] <= dead_host["lag_max_ms"]
    assert done.returncode == int(not (drain["good"] and outage["good"] and dead_host["good"]))


@pytest.mark.parametrize(
    ("load", "queue"),
    [
        ({"created": 10, "completed": 4}, {"ready": 5, "claimed": 0}),
        ({"created": 10, "completed": 4}, {"ready": 5, "claimed": 2}),
        ({"created": 10, "completed": 10, "refused": 1}, {"ready": 0}),
        ({"created": 10, "completed": 10, "frames_unanswered": 1}, {"ready": 0}),
        ({"created": 10, "completed": 10, "outcomes_unanswered": 1}, {"ready": 0}),
    ],
)
def test_check_counts_rejects_a_run_with_missing_tasks_or_answers(
    load: dict[str, object], queue: dict[str, int]
) -> None:
    nothing = {"refused": 0, "frames_unanswered": 0, "outcomes_unanswered": 0}
    with pytest.raises(BenchError):
        run.check_counts(nothing | load, queue)


def test_percentiles_are_times_that_were_measured() -> None:
    found = run.percentiles([float(number) for number in range(200, 0, -1)])
    assert found == {"p50_ms": 101.0, "p99_ms": 199.0, "max_ms": 200.0}
    assert run.percentiles([0.126], 2) == {"p50_ms": 0.13, "p99_ms": 0.13, "max_ms": 0.13}


def test_growth_exceeds_the_limit_only_if_the_store_grows_steadily() -> None:
    assert run.growth([float(size) for size in range(60)]) > run.FLAT_GROWTH_MAX
    assert run.growth([10.0, 40.0] * 30) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ('noise 7\n{"cycles_per_s": 12.5, "other": 3}\n', 12.5),
        ("created 11/s completed 4200.5/s\n", 4200.5),
        ("1\n2e3\n", 2000.0),
    ],
)
def test_output_number_is_the_value_of_the_key_or_the_last_number(output: str, number: float) -> None:
    assert compare.number_of(output, "cycles_per_s") == number


@pytest.mark.parametrize("output", ["", "nothing", '{"other": 3}'])
def test_output_without_a_number_is_rejected(output: str) -> None:
    with pytest.raises(compare.CompareError):
        compare.number_of(output, "cycles_per_s")


def test_compare_fails_if_a_result_is_below_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--runs", "3", "--ours", "echo 50", "--reference", "echo 100"]
    assert compare.main([*arguments, "--floor", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["median_ratio"] == 0.5
    assert compare.main([*arguments, "--floor", "0.51"]) == 1
