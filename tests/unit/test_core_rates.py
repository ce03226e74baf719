"""Queue rates: averages over about a minute that need no clock of their own."""

from __future__ import annotations

import pytest
from codeq_server.core.rates import Rates
from driven_shard import DrivenShard


@pytest.mark.parametrize("seconds", [1, 5, 60, 600])
@pytest.mark.parametrize("per_second", [1, 1000])
def test_steady_rate_is_reported_unchanged(per_second: int, seconds: int) -> None:
    rates = Rates(5, 7)
    for second in range(1, seconds + 1):
        rates.note(5 + per_second * second, 7 + 2 * per_second * second, 1000 * second)
    created, completed = rates.now(1000 * seconds)
    assert created == pytest.approx(per_second, rel=0.02)
    assert completed == pytest.approx(2 * per_second, rel=0.02)


def test_rate_decays_when_nothing_arrives() -> None:
    rates = Rates()
    for second in range(1, 601):
        rates.note(100 * second, 0, 1000 * second)
    told = [rates.now(600_000 + 1000 * quiet)[0] for quiet in (0, 60, 600)]
    assert told == pytest.approx([100, 37, 0], abs=1)
    assert rates.now(600_000)[1] == 0


def test_queue_rates_start_over_after_a_restart() -> None:
    driven = DrivenShard()
    for _ in range(10):
        for _ in range(20):
            driven.create()
        for delivered in driven.claim(10):
            driven.settle(delivered.task_id)  # type: ignore[arg-type]
        driven.write_unchecked()
        driven.pass_time(1000)
    created, completed = driven.queue().rates.now(driven.mono)
    assert (created, completed) == (pytest.approx(20, rel=0.15), pytest.approx(10, rel=0.15))
    driven.reopen()
    assert driven.queue().rates.now(driven.mono) == (0, 0)
    driven.create()
    driven.write_unchecked()
    assert driven.queue().rates.now(driven.mono)[0] == pytest.approx(1, rel=0.05)
