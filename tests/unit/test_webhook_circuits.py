"""Circuits of hosts: when they open, how they are probed, and that the table of hosts is bounded."""

from __future__ import annotations

import pytest
from codeq_server.webhooks import circuits
from codeq_server.webhooks.circuits import FAILURES_MAX, FULL_WAIT_MS, PER_HOST_MAX, Circuits


def run(table: Circuits, now_ms: int, *, failed: bool | None, host: str = "a:443") -> None:
    table.begin(host)
    table.end(host, now_ms, failed=failed)


def opened() -> Circuits:
    table = Circuits()
    for _ in range(FAILURES_MAX):
        run(table, 0, failed=True)
    return table


def test_circuit_opens_after_five_failures_in_a_row() -> None:
    table = Circuits()
    for failed in (True, True, True, True, False, True, True, True, True):
        run(table, 0, failed=failed)
    assert (table.wait_ms("a:443", 0), table.open) == (0, 0)
    run(table, 0, failed=True)
    assert (table.wait_ms("a:443", 0), table.wait_ms("b:443", 0), table.open) == (5_000, 0, 1)


def test_probes_are_made_one_at_a_time_and_ever_more_rarely() -> None:
    table, now_ms = opened(), 0
    waits = []
    for _ in range(6):
        waits.append(wait := table.wait_ms("a:443", now_ms))
        now_ms += wait
        assert table.wait_ms("a:443", now_ms) == 0
        table.begin("a:443")
        assert table.wait_ms("a:443", now_ms) > 0  # the probe is running
        table.end("a:443", now_ms, failed=True)
    assert waits == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]


def test_probe_can_be_made_at_once_and_its_failure_changes_nothing_else() -> None:
    table = opened()
    assert table.left_alone_until_ms("a:443") == 5_000
    table.probe_now("a:443", 1_000)
    table.probe_now("b:443", 1_000)
    assert (table.wait_ms("a:443", 1_000), table.open, len(table)) == (0, 1, 1)
    run(table, 1_000, failed=True)
    assert table.left_alone_until_ms("a:443") == 11_000
    table.probe_now("a:443", 0)
    run(table, 0, failed=False)
    assert (table.left_alone_until_ms("a:443"), table.open) == (0, 0)
    table.probe_now("a:443", 0)
    assert (table.wait_ms("a:443", 0), table.left_alone_until_ms("a:443")) == (0, 0)


def test_first_success_closes_the_circuit() -> None:
    table = opened()
    run(table, 5_000, failed=False)
    assert (table.wait_ms("a:443", 5_000), table.open) == (0, 0)
    run(table, 5_000, failed=True)
    assert table.wait_ms("a:443", 5_000) == 0


def test_requests_that_ran_when_the_circuit_opened_are_no_probes() -> None:
    table = Circuits()
    for _ in range(FAILURES_MAX + 3):
        table.begin("a:443")
    for _ in range(FAILURES_MAX + 3):
        table.end("a:443", 0, failed=True)
    assert table.wait_ms("a:443", 0) == 5_000


def test_request_that_was_given_up_says_nothing_about_the_host() -> None:
    table = Circuits()
    for _ in range(2 * FAILURES_MAX):
        run(table, 0, failed=None)
    assert table.wait_ms("a:443", 0) == 0


def test_host_at_its_limit_of_requests_is_busy() -> None:
    table = Circuits()
    for _ in range(PER_HOST_MAX):
        assert table.wait_ms("a:443", 0) == 0
        table.begin("a:443")
    assert table.wait_ms("a:443", 0) == FULL_WAIT_MS
    table.end("a:443", 0, failed=False)
    assert table.wait_ms("a:443", 0) == 0


def test_host_used_least_recently_is_forgotten_unless_a_request_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "HOSTS_MAX", 3)
    table = opened()
    table.begin("running:443")
    for number in range(5):
        run(table, 0, failed=False, host=f"{number}:443")
    assert (len(table), table.open) == (3, 0)
    assert table.wait_ms("a:443", 0) == 0
    table.end("running:443", 0, failed=True)
