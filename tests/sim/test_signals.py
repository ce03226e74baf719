"""Signals in simulated time: who gets them, how often, and that the last one is never lost."""

from __future__ import annotations

import asyncio
import json
import re
from itertools import pairwise

import pytest
from codeq.v1 import subscription_service_pb2 as pb
from codeq_server.webhooks import signals, signing
from codeq_server.webhooks.signals import Notifier
from planting import planted
from sim_signals import SignalWorld

INTERVAL = 5.0
SLACK = 1.0


def test_first_edge_is_signalled_at_once_and_further_ones_once_per_interval() -> None:
    async def story(world: SignalWorld) -> None:
        await world.subscribe(min_interval_seconds=5)
        for _ in range(40):
            await world.create()
            await asyncio.sleep(0.3)
        last = world.loop.time()
        await asyncio.sleep(INTERVAL + SLACK)
        times = [each.at for each in world.receivers.got]
        assert all(later - earlier >= INTERVAL - 0.01 for earlier, later in pairwise(times))
        assert len(times) >= 3
        assert times[0] < SLACK
        assert last - INTERVAL <= times[-1] <= last + INTERVAL
        assert world.receivers.got[-1].body["queueDepth"] == 40
        await asyncio.sleep(60)
        assert len(world.receivers.got) == len(times)

    SignalWorld().run(story)


def test_signal_says_what_is_ready() -> None:
    async def story(world: SignalWorld) -> None:
        await world.create("other")
        await world.subscribe(event_types=["a"], min_interval_seconds=0)
        await world.create(delay_seconds=20)
        await asyncio.sleep(1)
        assert world.receivers.got == []
        for _ in range(3):
            await world.create()
        await asyncio.sleep(1)
        got = world.receivers.got[-1]
        body = got.body
        assert {"eventType": "a", "available": True, "queueDepth": 3, "tenantId": "acme"}.items() <= body.items()
        assert body["claimUrl"] == "/v1/codeq/tasks/claim"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["sentAt"])
        assert got.headers["webhook-id"] == body["notificationId"]
        assert len({each.body["notificationId"] for each in world.receivers.got}) == len(world.receivers.got)
        stamp = int(got.headers["X-CodeQ-Timestamp"])
        signed = signing.headers(["a secret of some length"], body["notificationId"], stamp, json_of(body))
        assert got.headers == signed

    SignalWorld(secret="a secret of some length").run(story)


def json_of(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def test_interval_of_the_setting_applies_if_none_is_named_and_zero_is_none() -> None:
    async def story(world: SignalWorld) -> None:
        await world.subscribe("http://default.example/")
        await world.subscribe("http://none.example/", min_interval_seconds=0)
        for _ in range(4):
            await world.create()
            await asyncio.sleep(2)
        counts = {url: world.urls().count(url) for url in set(world.urls())}
        assert counts["http://none.example/"] == 4
        assert counts["http://default.example/"] == 2

    SignalWorld().run(story)


def test_work_that_is_ready_is_signalled_to_a_new_subscription() -> None:
    async def story(world: SignalWorld) -> None:
        await world.create()
        await world.subscribe("http://old.example/", min_interval_seconds=3600)
        await asyncio.sleep(1)
        await world.subscribe("http://new.example/", min_interval_seconds=3600)
        await asyncio.sleep(1)
        assert world.urls() == ["http://old.example/", "http://new.example/"]

    SignalWorld().run(story)


def test_fanout_tells_all_and_a_group_one_in_turn_and_hash_always_the_same() -> None:
    async def story(world: SignalWorld) -> None:
        for number in range(3):
            await world.subscribe(f"http://fan{number}.example/", min_interval_seconds=0)
            await world.subscribe(
                f"http://group{number}.example/", min_interval_seconds=0, delivery_mode="group", group_id="g"
            )
            await world.subscribe(f"http://hash{number}.example/", min_interval_seconds=0, delivery_mode="hash")
        await world.subscribe("http://alone.example/", min_interval_seconds=0, delivery_mode="group", group_id="h")
        for _ in range(9):
            await world.create()
            await asyncio.sleep(1)
        counts = {url[7:-9]: world.urls().count(url) for url in set(world.urls())}
        assert [counts[f"fan{number}"] for number in range(3)] == [9, 9, 9]
        assert [counts[f"group{number}"] for number in range(3)] == [3, 3, 3]
        assert counts["alone"] == 9
        assert [count for name, count in counts.items() if name.startswith("hash")] == [9]

    SignalWorld().run(story)


def test_hash_spreads_commands_and_moves_few_when_a_member_leaves() -> None:
    async def story(world: SignalWorld) -> None:
        ids = [
            await world.subscribe(f"http://hash{number}.example/", min_interval_seconds=0, delivery_mode="hash")
            for number in range(4)
        ]
        commands = [f"c{number}" for number in range(40)]

        async def owners() -> dict[str, str]:
            seen = len(world.receivers.got)
            for command in commands:
                await world.create(command)
            await asyncio.sleep(2)
            return {each.body["eventType"]: each.url for each in world.receivers.got[seen:]}

        before = await owners()
        assert len(set(before.values())) == 4
        await world.ask("SubscriptionService/DeleteSubscription", pb.DeleteSubscriptionRequest(id=ids[0]))
        after = await owners()
        moved = {command for command in commands if before[command] != after[command]}
        assert moved == {command for command in commands if before[command] == "http://hash0.example/"}

    SignalWorld().run(story)


def test_receiver_that_says_gone_ends_its_subscription() -> None:
    async def story(world: SignalWorld) -> None:
        world.receivers.status["http://gone.example/"] = 410
        await world.subscribe("http://gone.example/", min_interval_seconds=0)
        await world.subscribe("http://fails.example/", min_interval_seconds=0)
        world.receivers.status["http://fails.example/"] = 404
        await world.create()
        await asyncio.sleep(1)
        assert len(world.shard.subscriptions.by_tenant["acme"]) == 1
        await world.create()
        await asyncio.sleep(1)
        assert world.urls().count("http://gone.example/") == 1
        assert world.urls().count("http://fails.example/") == 2

    SignalWorld().run(story)


def test_url_over_its_rate_gets_no_signal_and_it_is_counted() -> None:
    async def story(world: SignalWorld) -> None:
        world.receivers.limits["http://r.example/"] = 500
        await world.subscribe(min_interval_seconds=0)
        await world.create()
        await asyncio.sleep(2)
        world.receivers.limits.clear()
        await asyncio.sleep(2)
        assert world.receivers.got == []
        assert world.server.serving.signals.outcomes["rate_limited"] == 1
        await world.create()
        await asyncio.sleep(1)
        assert len(world.receivers.got) == 1

    SignalWorld().run(story)


def test_dead_subscribers_slow_down_nobody() -> None:
    async def story(world: SignalWorld) -> None:
        for number in range(400):
            world.receivers.status[f"http://dead{number}.example/"] = 0
            await_many.append(world.subscribe(f"http://dead{number}.example/", min_interval_seconds=0, ttl_seconds=600))
        await asyncio.gather(*await_many)
        await world.subscribe("http://live.example/", min_interval_seconds=0, ttl_seconds=600)
        late = []
        for _ in range(40):
            seen = len(world.receivers.got)
            begun = world.loop.time()
            await world.create()
            while len(world.receivers.got) == seen:  # noqa: ASYNC110 - in simulated time
                await asyncio.sleep(0.05)
            late.append(world.loop.time() - begun)
        assert sorted(late)[-3] < SLACK  # but for the first signals, which found out who is dead
        assert max(late) < 16
        assert max(world.receivers.most.values()) == 1

    await_many: list[object] = []
    SignalWorld().run(story)


def test_subscription_has_one_request_in_flight_and_the_last_edge_follows_it() -> None:
    async def story(world: SignalWorld) -> None:
        world.receivers.delay["http://r.example/"] = 3.0
        await world.subscribe(min_interval_seconds=0)
        for _ in range(10):
            await world.create()
        await asyncio.sleep(10)
        assert world.receivers.most == {"http://r.example/": 1}
        assert [each.body["queueDepth"] for each in world.receivers.got][-1] == 10
        assert len(world.receivers.got) == 2

    SignalWorld().run(story)


def test_signals_of_a_thousand_subscriptions_are_bounded_and_all_arrive() -> None:
    async def story(world: SignalWorld) -> None:
        many = [
            world.subscribe(f"http://r{number}.example/", holder="acme w", min_interval_seconds=5)
            for number in range(1000)
        ]
        await asyncio.gather(*many)
        for _ in range(50):
            await asyncio.gather(*[world.create() for _ in range(4)])
        end = world.loop.time()
        await asyncio.sleep(INTERVAL + SLACK)
        per_url: dict[str, list[float]] = {}
        for each in world.receivers.got:
            per_url.setdefault(each.url, []).append(each.at)
        assert len(per_url) == 1000
        for times in per_url.values():
            assert all(later - earlier >= INTERVAL - 0.5 for earlier, later in pairwise(times))
            assert times[-1] > end - INTERVAL

    SignalWorld().run(story)


def test_commands_beyond_the_limit_are_dropped_only_while_all_others_have_pending_signals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "AUDIENCES_MAX", 3)

    async def story(world: SignalWorld) -> None:
        await world.subscribe(min_interval_seconds=0)
        for number in range(10):
            await world.create(f"c{number}")
            await asyncio.sleep(1)
        assert [each.body["eventType"] for each in world.receivers.got] == [f"c{number}" for number in range(10)]
        assert world.server.serving.signals.outcomes["dropped"] == 0
        assert len(world.server.serving.signals._audiences) <= 3

    SignalWorld().run(story)


def test_pending_signal_of_an_ended_subscription_leaves_no_trace_of_a_forgotten_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "AUDIENCES_MAX", 2)

    async def story(world: SignalWorld) -> None:
        ended = await world.subscribe("http://ended.example/", min_interval_seconds=3600, ttl_seconds=86_400)
        for _ in range(2):  # the second signal waits for the interval
            await world.create("c0")
            await asyncio.sleep(1)
        await world.ask("SubscriptionService/DeleteSubscription", pb.DeleteSubscriptionRequest(id=ended))
        await world.subscribe("http://second.example/", min_interval_seconds=0, ttl_seconds=86_400)
        for number in range(4):
            await world.create(f"c{number}")
            await asyncio.sleep(1)
        notifier = world.server.serving.signals
        assert not any(command == "c0" for _, command in notifier._audiences)
        await world.subscribe("http://third.example/", ttl_seconds=86_400)
        await asyncio.sleep(3600)
        assert notifier._targets == sum(len(each.targets) for each in notifier._audiences.values())

    SignalWorld().run(story)


# -- crashes -----------------------------------------------------------------------------------------------------


def life(seed: int) -> str:
    """Returns the broken promise of a life with crashes; empty: none."""
    world = SignalWorld(seed, calm=False)
    found: list[str] = []

    async def story(world: SignalWorld) -> None:
        chance = world.chance
        interval = chance.choice((0, 2))
        await world.subscribe(min_interval_seconds=interval, ttl_seconds=86400)
        for _ in range(chance.randint(1, 12)):
            await world.create()
            await asyncio.sleep(chance.choice((0.0, 0.01, 0.3, 1.5)))
            match chance.choice(("crash", "power", "stop", "", "", "")):
                case "stop":
                    await world.node.stop()
                case "crash" | "power" as kind:
                    world.node.crash(power=kind == "power")
            world.receivers.delay["http://r.example/"] = chance.choice((0.001, 0.5))
            if world.node.server is None:
                world.node.start()
        begun = world.loop.time()
        await world.create()
        asked = world.loop.time()
        await asyncio.sleep(interval + SLACK)
        got = world.receivers.got
        if not got or got[-1].at < begun or got[-1].body["queueDepth"] < 1:
            found.append("the last edge is lost")
        for one, other in pairwise(got):
            if one.source == other.source and other.at - one.at < interval - 0.6:
                found.append("signals come too often")
        assert asked >= begun

    world.run(story)
    return found[0] if found else ""


def test_last_edge_is_signalled_whatever_crashed_before() -> None:
    for seed in range(60):
        assert life(seed) == "", seed


BUGS = {
    "last edge lost": (
        Notifier._look,
        "for target in list(audience.idle):",
        "for target in [t for t in audience.idle if t.choose(now_ms).next_ms <= now_ms]:",
    ),
    "edge forgotten at startup": (Notifier.start, "self._runner.on_readiness = self.take", "pass"),
    "interval ignored": (
        Notifier._send,
        "self._runner.mono_ms() + subscription.wanted.interval_ms",
        "now_ms",
    ),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bug_of_signals_is_found(bug: tuple[object, str, str]) -> None:
    function, right, wrong = bug
    with planted(function, right, wrong):  # type: ignore[arg-type]
        assert any(life(seed) for seed in range(60))
