"""Turns of the sources that have due work."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from codeq_server.core import alarms
from codeq_server.core.alarms import NEVER, Alarms


@dataclass(eq=False)
class Source:
    tenant: str
    name: str = ""


def served(of: Alarms[Source], now: int, turns: int) -> list[Source]:
    """Gives turns to sources that always have more work."""
    found = []
    for _ in range(turns):
        source = of.turn(now)
        assert source is not None
        found.append(source)
        of.rest(source, now, now)
    return found


def test_no_source_gets_a_turn_before_anything_is_due() -> None:
    of: Alarms[Source] = Alarms()
    assert of.first_ms == NEVER
    of.set(Source("a"), 10)
    assert of.turn(9) is None
    assert of.first_ms == 10


def test_turns_rotate_over_tenants_and_over_the_sources_of_each_tenant() -> None:
    of: Alarms[Source] = Alarms()
    sources = [Source("a", "1"), Source("a", "2"), Source("a", "3"), Source("b", "4")]
    for at, source in enumerate(sources):
        of.set(source, at)
    assert "".join(source.name for source in served(of, 10, 9)) == "142434142"
    assert of.first_ms == 0


def test_rested_source_waits_until_its_later_time() -> None:
    of: Alarms[Source] = Alarms()
    source = Source("a")
    of.set(source, 5)
    assert of.turn(5) is source
    of.rest(source, 20, 5)
    assert of.first_ms == 20
    assert of.turn(19) is None
    assert of.turn(20) is source
    of.rest(source, None, 20)
    assert of.first_ms == NEVER


def test_set_makes_an_alarm_earlier_and_never_later() -> None:
    of: Alarms[Source] = Alarms()
    source = Source("a")
    of.set(source, 5)
    of.set(source, 9)
    assert of.first_ms == 5
    of.set(source, 3)
    assert of.first_ms == 3
    assert of.turn(3) is source
    of.rest(source, None, 3)
    assert of.turn(100) is None


def test_dropped_source_gets_no_turn_and_no_longer_sets_the_first_time() -> None:
    of: Alarms[Source] = Alarms()
    early, late = Source("a"), Source("b")
    of.set(early, 5)
    of.set(late, 9)
    of.drop(early)
    assert of.first_ms == 9
    assert of.turn(10) is late


def test_sources_that_become_due_at_once_all_get_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "MOVES_MAX", 3)
    of: Alarms[Source] = Alarms()
    sources = [Source(f"t{n % 4}", str(n)) for n in range(40)]
    for source in sources:
        of.set(source, 1)
    found = []
    while (source := of.turn(1)) is not None:
        found.append(source)
        of.rest(source, None, 1)
    assert sorted(found, key=lambda s: int(s.name)) == sources


def test_alarms_that_are_repeatedly_made_earlier_do_not_pile_up() -> None:
    of: Alarms[Source] = Alarms()
    source = Source("a")
    for at in range(10_000, 0, -1):
        of.set(source, at)
    assert len(of._heap) <= 2 + alarms.STALE_MAX
    assert of.turn(1) is source


def test_busy_tenants_get_the_same_number_of_turns() -> None:
    """A tenant with a hundred queues competes with tenants that have one queue each."""
    of: Alarms[Source] = Alarms()
    for number in range(100):
        of.set(Source("many"), number)
    for tenant in ("b", "c", "d"):
        of.set(Source(tenant), random.Random(tenant).randrange(100))
    counts = Counter(source.tenant for source in served(of, 200, 400))
    assert set(counts.values()) == {100}
