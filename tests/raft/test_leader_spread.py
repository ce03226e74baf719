"""A leader gives way to the member that is to lead its group, once that one has been able to for long enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from codeq_server.node import leader_spread
from codeq_server.node.leader_spread import CALM_SECONDS, LeaderSpread, preferred
from members_net import Cluster, MemberNode
from planting import planted


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, spreads: Sequence[LeaderSpread], seconds: float) -> None:
        """Lets time pass while each node looks once a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1, end)
            for spread in spreads:
                spread.look()


def other_than(leader: MemberNode) -> int:
    """Returns a shard that another member is to lead."""
    return next(shard for shard in range(3) if preferred([*"abc"], shard) != leader.name)


def test_groups_are_shared_out_evenly_by_name() -> None:
    assert [preferred(["b", "c", "a"], shard) for shard in range(6)] == ["a", "b", "c", "a", "b", "c"]


async def test_leader_hands_over_once_the_other_has_been_able_for_long_enough(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        shard, clock = other_than(leader), Time()
        spreads = [LeaderSpread(node.member, shard, clock) for node in cluster.nodes.values()]
        await cluster.until(lambda: len(leader.member.others_active()) == 2)
        clock.pass_by(spreads, CALM_SECONDS)
        assert leader.term

        def has_moved() -> int:
            clock.pass_by(spreads, 2)  # again and again: on a busy machine, a transfer may fail
            return cluster.nodes[preferred([*"abc"], shard)].term

        await cluster.until(has_moved)


async def test_leader_stays_where_it_is_to_be(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        shard = next(shard for shard in range(3) if preferred([*"abc"], shard) == leader.name)
        clock = Time()
        await cluster.until(lambda: len(leader.member.others_active()) == 2)
        clock.pass_by([LeaderSpread(leader.member, shard, clock)], 3 * CALM_SECONDS)
        assert leader.term
        assert leader.member.group is not None
        assert leader.member.group.leadership.elections == 1


async def test_member_that_is_away_or_behind_does_not_get_the_leadership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.voters(3)
        leader = await cluster.leader()
        shard, clock = other_than(leader), Time()
        asked: list[int] = []
        monkeypatch.setattr(leader.member, "hand_over", asked.append)
        spread = [LeaderSpread(leader.member, shard, clock)]
        name = preferred([*"abc"], shard)
        wanted = cluster.nodes[name].member.row.raft_id
        cluster.net.isolate(name)
        await cluster.until(lambda: wanted not in leader.member.others_active())
        clock.pass_by(spread, 3 * CALM_SECONDS)
        assert asked == []
        cluster.net.heal()
        await cluster.until(lambda: cluster.nodes[name].lsn == leader.lsn)
        await cluster.until(lambda: wanted in leader.member.others_active())
        clock.pass_by(spread, CALM_SECONDS)
        assert asked == []  # the time begins anew
        with monkeypatch.context() as patched:
            patched.setattr(leader_spread, "LAG_MAX", -1)  # so that it counts as behind
            clock.pass_by(spread, 3 * CALM_SECONDS)
            assert asked == []
        clock.pass_by(spread, CALM_SECONDS + 2)
        assert asked == [wanted]


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("matched + LAG_MAX >= group.log.last", "True"),
        ("wanted not in self._member.others_active()", "False"),
    ],
    ids=["moves to a member that is behind", "moves to a member that is away"],
)
def test_planted_bug_in_the_spread_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    test = test_member_that_is_away_or_behind_does_not_get_the_leadership
    with planted(LeaderSpread._wanted, right, wrong), pytest.raises(AssertionError):
        asyncio.run(test(tmp_path / "planted", monkeypatch))
