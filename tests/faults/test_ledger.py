"""The ledger of the fault suite notices every kind of broken promise."""

from __future__ import annotations

import time

import pytest
from cluster_ledger import Delivery, End, Ledger

NOW = 1_800_000_000.0


def lease(token: int, start: float = NOW) -> Delivery:
    return Delivery(token, start, start + 2)


@pytest.fixture
def ledger() -> Ledger:
    """A ledger with one task, "t", whose create was acknowledged."""
    ledger = Ledger()
    ledger.created(ledger.attempt("plain"), "t", "a")
    return ledger


def found(ledger: Ledger) -> list[str]:
    ledger.judge_leases()
    return [problem.partition(":")[0] for problem in ledger.problems]


def test_ledger_accepts_a_task_that_was_redelivered_and_completed(ledger: Ledger) -> None:
    ledger.delivered("t", 0, lease(1), "a")
    ledger.delivered("t", 0, lease(2, NOW + 2), "b")
    ledger.ended("t", End(2, "COMPLETED", b""), 2)
    ledger.ended("t", End(2, "COMPLETED", b""), 2)
    assert ledger.judge_task("t", 0, "COMPLETED")
    assert found(ledger) == []


def test_ledger_detects_a_task_whose_state_contradicts_its_acknowledged_end(ledger: Ledger) -> None:
    ledger.delivered("t", 0, lease(1), "a")
    ledger.ended("t", End(1, "COMPLETED", b""), 1)
    assert not ledger.judge_task("t", 0, "PENDING")
    assert found(ledger) == ["I1"]


def test_ledger_detects_a_task_that_nobody_created(ledger: Ledger) -> None:
    ledger.delivered("u", 7, lease(1), "a")
    assert not ledger.judge_task("u", 7, "COMPLETED")
    assert found(ledger) == ["I2", "I2"]


def test_ledger_detects_a_task_that_ends_twice(ledger: Ledger) -> None:
    ledger.delivered("t", 0, lease(1), "a")
    ledger.ended("t", End(1, "COMPLETED", b""), 1)
    ledger.delivered("t", 0, lease(2, NOW + 2), "a")
    ledger.ended("t", End(2, "COMPLETED", b""), 2)
    assert ledger.doubled == {"t"}
    assert found(ledger) == ["I3", "I3"]


def test_ledger_detects_overlapping_leases(ledger: Ledger) -> None:
    ledger.delivered("t", 0, lease(1), "a")
    ledger.delivered("t", 0, lease(2, NOW + 1.9), "b")
    assert found(ledger) == ["I4"]


def test_ledger_treats_an_abandoned_lease_as_ended(ledger: Ledger) -> None:
    first = lease(1)
    ledger.delivered("t", 0, first, "a")
    first.given_up = True
    ledger.delivered("t", 0, lease(2, NOW + 0.1), "b")
    assert found(ledger) == []


def test_ledger_detects_a_repeated_lease_token(ledger: Ledger) -> None:
    ledger.delivered("t", 0, lease(1), "a")
    ledger.delivered("t", 0, lease(1, NOW + 5), "b")
    assert found(ledger) == ["I4"]


def test_ledger_detects_an_outcome_that_passed_the_fence(ledger: Ledger) -> None:
    ledger.delivered("t", 0, lease(1), "a")
    ledger.delivered("t", 0, lease(2, NOW + 2), "a")
    ledger.ended("t", End(1, "COMPLETED", b""), ledger.newest("t"))
    assert found(ledger) == ["I4", "I3"]


def test_ledger_detects_a_create_with_two_ids_and_an_id_with_two_creates(ledger: Ledger) -> None:
    ledger.created(ledger.attempts[0], "u", "a")
    ledger.created(ledger.attempt("plain"), "t", "a")
    assert found(ledger) == ["I5", "I5"]


def test_ledger_detects_an_early_delivery(ledger: Ledger) -> None:
    attempt = ledger.attempt("delayed", time.time() + 60)
    ledger.delivered("d", attempt.number, lease(1), "a")
    assert len(found(ledger)) == 1


def test_ledger_measures_gaps_and_the_first_answer_from_another_node(ledger: Ledger) -> None:
    ledger.creates.at = [(10.0, "a"), (11.0, "a"), (14.0, "b"), (15.0, "b")]
    assert ledger.creates.first_after(10.5, not_by="a") == 3.5
    assert ledger.creates.first_after(15.5) is None
    assert ledger.creates.longest_gap(10.5, 16.0) == 3.0
