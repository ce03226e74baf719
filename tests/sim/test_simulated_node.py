"""Simulated lives of a node keep every promise, and follow from their seeds alone.

CODEQ_SIM_SEEDS makes longer runs (`make soak`). A seed that fails is run again with `make sim SEED=…`.
"""

from __future__ import annotations

import os

import pytest
from sim_run import simulate

SEEDS = int(os.environ.get("CODEQ_SIM_SEEDS", "240"))
SEEDS_OF_A_TEST = 10
TWICE_EACH = 10
"""Every seed of this kind is run twice."""
HAPPENS = {
    *("kill", "power cut", "stop", "created", "claimed", "extended", "accepted"),
    *("expired", "matured", "removed", "cancelled", "paused", "listed"),
    *("redriven", "redrive of a queue", "dead letters listed", "cleanup"),
}


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_OF_A_TEST))
def test_simulated_node_keeps_every_promise(first: int) -> None:
    happened: set[str] = set()
    for seed in range(first, first + SEEDS_OF_A_TEST):
        outcome = simulate(seed)
        assert not outcome.violation, f"{outcome.violation}; once more: make sim SEED={seed}"
        happened |= outcome.counts.keys()
    assert happened >= HAPPENS


@pytest.mark.parametrize("seed", range(0, SEEDS, TWICE_EACH))
def test_simulated_node_run_twice_writes_the_same(seed: int) -> None:
    assert simulate(seed) == simulate(seed)
