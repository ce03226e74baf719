"""The ledger of tasks with keys notices every kind of broken promise about keys."""

from __future__ import annotations

import pytest
from cluster_ledger import Delivery
from key_load import CONSUMERS_MAX, PER_KEY, Keyed, KeyLedger

NOW = 1_800_000_000.0
SECOND = 1.0


@pytest.fixture
def ledger() -> KeyLedger:
    return KeyLedger()


def created(
    ledger: KeyLedger, *, sent: float = 0.0, acknowledged: float = 0.0, concurrency: str = "", order: str = ""
) -> str:
    """Records a create; returns the id of its task."""
    attempt = ledger.attempt("plain")
    ledger.keyed[attempt.number] = Keyed("a", concurrency, order, sent, acknowledged)
    task_id = f"t{attempt.number}"
    ledger.created(attempt, task_id, "node")
    return task_id


def leased(ledger: KeyLedger, task_id: str, token: int, start: float, seconds: float = SECOND) -> None:
    """Records a lease that the worker gives up after this time."""
    ledger.delivered(task_id, int(task_id[1:]), Delivery(token, start, start + 2, given_up=True), "node")
    ledger.dropped[token] = start + seconds


def found(ledger: KeyLedger) -> list[str]:
    ledger.judge_leases()
    return [problem.partition(":")[0] for problem in ledger.problems]


def test_ledger_accepts_as_many_leases_of_a_key_as_its_limit(ledger: KeyLedger) -> None:
    for number in range(2 * PER_KEY):
        leased(ledger, created(ledger, concurrency="k"), number + 1, NOW + number // PER_KEY * SECOND)
    leased(ledger, created(ledger, concurrency="l"), 99, NOW)
    assert found(ledger) == []
    assert ledger.counts[f"peak of {PER_KEY}"] == PER_KEY


def test_ledger_detects_one_lease_too_many(ledger: KeyLedger) -> None:
    for number in range(PER_KEY + 1):
        leased(ledger, created(ledger, concurrency="k"), number + 1, NOW + number * 0.1)
    assert found(ledger) == ["K1"]


def test_ledger_detects_one_consumer_too_many(ledger: KeyLedger) -> None:
    for number in range(CONSUMERS_MAX + 1):
        leased(ledger, created(ledger), number + 1, NOW)
    assert found(ledger) == ["K1"]


def test_ledger_accepts_an_order_that_the_creates_leave_open(ledger: KeyLedger) -> None:
    first = created(ledger, sent=1, acknowledged=3, order="o")
    second = created(ledger, sent=2, acknowledged=4, order="o")
    leased(ledger, second, 1, NOW)
    leased(ledger, second, 2, NOW + SECOND)
    leased(ledger, first, 3, NOW + 2 * SECOND)
    assert found(ledger) == []


def test_ledger_detects_a_task_that_passes_an_earlier_one(ledger: KeyLedger) -> None:
    first = created(ledger, sent=1, acknowledged=2, order="o")
    second = created(ledger, sent=3, acknowledged=4, order="o")
    leased(ledger, second, 1, NOW)
    leased(ledger, first, 2, NOW + SECOND)
    assert found(ledger) == ["K2"]


def test_ledger_detects_a_task_that_passes_a_retry(ledger: KeyLedger) -> None:
    first = created(ledger, sent=1, acknowledged=2, order="o")
    second = created(ledger, sent=3, acknowledged=4, order="o")
    leased(ledger, first, 1, NOW)
    leased(ledger, second, 2, NOW + SECOND)
    leased(ledger, first, 3, NOW + 2 * SECOND)
    assert found(ledger) == ["K2"]
