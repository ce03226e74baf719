"""Series of commands: whose they are, that none decreases, and that reading them holds up nobody."""

from __future__ import annotations

import asyncio

from codeq_server.core.claims import claim
from codeq_server.core.model import Caller
from codeq_server.core.outcomes import settle
from codeq_server.core.shard import ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.services.command_series import (
    CLAIMED,
    COMPLETED,
    CREATED,
    OTHER,
    RANK_SECONDS,
    SLICE_QUEUES,
    CommandSeries,
    Series,
)
from held_log import HeldRunner

WORKER = Caller("acme", "w", "w")


class Scraped:
    """The series of a runner, and the clock of their ranking."""

    def __init__(self, *, series_max: int = 100, by_tenant: bool = False) -> None:
        self.runner = HeldRunner(ShardSettings())
        self.runner.log.free = True
        self.seconds = 0.0
        self.series = CommandSeries(self.runner, by_tenant=by_tenant, series_max=series_max, clock=lambda: self.seconds)

    async def refresh(self) -> dict[str, Series]:
        await self.series.refresh()
        return {"/".join(label): series for label, series in self.series}

    async def created(self) -> dict[str, int]:
        return {label: series.counts[CREATED] for label, series in (await self.refresh()).items()}

    def run(self, command: str, count: int = 1) -> None:
        """Creates, claims and completes tasks."""
        for _ in range(count):
            self.runner.create(command)
            claimed = claim(self.runner.shard, WORKER, [command], 1, 1 << 20, 60_000, self.runner.now())
            assert claimed is not None
            task_id = str(claimed[1][0].task_id)
            settle(self.runner.shard, WORKER, task_id, None, Outcome.COMPLETED, None, "", None, 0.5, self.runner.now())
        self.runner.changed()


async def test_counts_before_the_first_scrape_are_shown() -> None:
    scraped = Scraped()
    scraped.run("mail", 3)
    mail = (await scraped.refresh())["mail"]
    assert [mail.counts[index] for index in (CREATED, CLAIMED, COMPLETED)] == [3, 3, 3]
    scraped.run("mail")
    assert (await scraped.created()) == {"mail": 4, OTHER: 0}


async def test_depths_and_the_age_of_the_oldest_task_are_shown() -> None:
    scraped = Scraped()
    scraped.runner.create("mail")
    scraped.runner.clock.forward(2_000)
    scraped.runner.create("mail", tenant="other")
    scraped.runner.create("mail", delay=60_000)
    scraped.runner.clock.forward(500)
    mail = (await scraped.refresh())["mail"]
    assert (mail.ready, mail.delayed, mail.in_progress, mail.dlq, mail.oldest_ms) == (2, 1, 0, 0, 2_500)
    claim(scraped.runner.shard, WORKER, None, 1, 1 << 20, 60_000, scraped.runner.now())
    mail = (await scraped.refresh())["mail"]
    assert (mail.ready, mail.in_progress, mail.oldest_ms) == (1, 1, 500)


async def test_times_count_from_the_first_scrape_on() -> None:
    scraped = Scraped()
    scraped.run("mail")
    mail = (await scraped.refresh())["mail"]
    assert mail.times.latencies.count == 0
    scraped.run("mail", 2)
    assert mail.times.latencies.count == 2
    assert mail.times.waits.count == 2


async def test_commands_beyond_the_limit_share_a_series() -> None:
    scraped = Scraped(series_max=2)
    for command in ("a", "b", "c", "d"):
        scraped.run(command)
    assert await scraped.created() == {"a": 1, "b": 1, OTHER: 2}
    assert scraped.series.folded == 2


async def test_busier_command_takes_over_a_series_and_no_series_decreases() -> None:
    scraped = Scraped(series_max=2)
    for command in ("a", "b", "c"):
        scraped.run(command)
    assert await scraped.created() == {"a": 1, "b": 1, OTHER: 1}
    scraped.run("a", 3)
    scraped.run("c", 9)
    assert await scraped.created() == {"a": 4, "b": 1, OTHER: 10}
    scraped.seconds += RANK_SECONDS
    assert await scraped.created() == {"a": 4, "c": 0, OTHER: 10}
    scraped.run("b")
    scraped.run("c")
    assert await scraped.created() == {"a": 4, "c": 1, OTHER: 11}


async def test_command_that_is_only_a_little_busier_takes_over_nothing() -> None:
    scraped = Scraped(series_max=1)
    scraped.run("a", 4)
    scraped.run("b", 6)
    await scraped.refresh()
    scraped.seconds += RANK_SECONDS
    assert set(await scraped.refresh()) == {"a", OTHER}


async def test_series_of_a_removed_queue_ends() -> None:
    scraped = Scraped()
    scraped.run("a")
    await scraped.refresh()
    shard = scraped.runner.shard
    shard.queues.clear()
    assert set(await scraped.refresh()) == {OTHER}


async def test_series_of_tenants_are_apart_if_asked_for() -> None:
    scraped = Scraped(by_tenant=True)
    scraped.runner.create("a", tenant="one")
    scraped.runner.create("a", tenant="two")
    assert await scraped.created() == {"one/a": 1, "two/a": 1, f"{OTHER}/{OTHER}": 0}


async def test_reading_many_queues_gives_way_and_scrapes_at_the_same_time_share_it() -> None:
    scraped = Scraped()
    for number in range(SLICE_QUEUES * 3):
        scraped.runner.create(f"c{number}")
    steps = 0

    async def count() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.gather(*[scraped.series.refresh() for _ in range(5)])
    counting.cancel()
    assert 3 <= steps <= 20
    assert sum((await scraped.created()).values()) == SLICE_QUEUES * 3
