"""Task lists: every task appears once and in order, whatever happens between pages; every page is bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from accepted_tasks import create
from codeq.v1 import task_service_pb2 as pb
from codeq_server.core.claims import claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller
from codeq_server.core.outcomes import settle
from codeq_server.core.status import Outcome
from codeq_server.services import listing, newest_first
from codeq_server.services.listing import list_tasks
from codeq_server.services.newest_first import list_newest
from held_log import HeldRunner

WORKER = Caller("acme", "w", "w")


@pytest.fixture
async def runner() -> HeldRunner:
    runner = HeldRunner()
    runner.log.free = True
    return runner


async def add(
    runner: HeldRunner, count: int, command: str = "a", *, priority: int = 0, delay: int = 0, tenant: str = "acme"
) -> list[str]:
    now = runner.now()
    due = now.wall_ms + delay if delay else 0
    ids = [create(runner.shard, tenant, command, b"1" * 300, priority, 0, due, now)[0] for _ in range(count)]
    runner.changed()
    await runner.wait_durable()
    return ids


async def take(runner: HeldRunner, count: int, outcome: Outcome | None = None) -> list[str]:
    claimed = claim(runner.shard, WORKER, None, count, 1 << 30, 60_000, runner.now())
    assert claimed is not None
    ids = [delivered.task_id for delivered in claimed[1]]
    for task_id in ids if outcome else ():
        error = "no" if outcome is Outcome.FAILED else ""
        settle(runner.shard, WORKER, task_id, None, outcome or Outcome.NACK, None, error, 0, 0.5, runner.now())
    runner.changed()
    await runner.wait_durable()
    return ids


async def listed(runner: HeldRunner, **request: object) -> list[str]:
    """Returns the ids of all pages."""
    ids: list[str] = []
    token = ""
    read = list_newest if request.get("order_by") == "newest" else list_tasks
    while True:
        page = await read(runner, "acme", pb.ListTasksRequest(**request, page_token=token))  # type: ignore[arg-type]
        ids += [task.id for task in page.tasks]
        token = page.next_page_token
        if not token:
            return ids


async def test_list_shows_each_task_once_ordered_by_queue_priority_and_age(runner: HeldRunner) -> None:
    low = await add(runner, 30)
    high = await add(runner, 30, priority=9)
    parked = await add(runner, 30, delay=5000)
    other = await add(runner, 30, "b")
    await add(runner, 3, tenant="globex")
    for size in (1, 7, 500):
        assert await listed(runner, page_size=size) == high + low + parked + other
    assert await listed(runner, command="b") == other
    assert await listed(runner, command="nothing") == []


async def test_list_by_status_shows_current_states(runner: HeldRunner) -> None:
    ids = await add(runner, 10)
    done = await take(runner, 2, Outcome.COMPLETED)
    again = await take(runner, 1, Outcome.NACK)
    held = await take(runner, 1)
    parked = await add(runner, 2, delay=5000)
    assert await listed(runner, status=["TASK_STATUS_COMPLETED"]) == done
    assert await listed(runner, status=["TASK_STATUS_CLAIMED"]) == held
    assert await listed(runner, status=["TASK_STATUS_SCHEDULED"]) == parked
    assert await listed(runner, status=["TASK_STATUS_PENDING"]) == again + ids[4:]
    assert await listed(runner, status=["TASK_STATUS_PENDING", "TASK_STATUS_CLAIMED"]) == again + held + ids[4:]


async def test_list_by_acceptance_time_includes_the_start_and_excludes_the_end(runner: HeldRunner) -> None:
    await add(runner, 2)
    runner.clock.forward(1000)
    wanted = await add(runner, 2)
    times = (await list_tasks(runner, "acme", pb.ListTasksRequest())).tasks
    created = times[-1].created_at
    runner.clock.forward(1000)
    later = await add(runner, 2)
    assert await listed(runner, created_from=created) == wanted + later
    to = (await list_tasks(runner, "acme", pb.ListTasksRequest())).tasks[-1].created_at
    assert await listed(runner, created_from=created, created_to=to) == wanted


async def test_list_shows_each_existing_task_once_while_tasks_are_added_and_moved(runner: HeldRunner) -> None:
    ids = await add(runner, 40)
    first = await list_tasks(runner, "acme", pb.ListTasksRequest(page_size=20))
    await take(runner, 25, Outcome.NACK)
    await add(runner, 5, priority=9)
    rest = await list_tasks(runner, "acme", pb.ListTasksRequest(page_size=500, page_token=first.next_page_token))
    assert [task.id for task in (*first.tasks, *rest.tasks)] == ids


async def test_page_of_a_list_reads_a_bounded_number_of_rows(
    runner: HeldRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_ROWS_MAX", 50)
    await add(runner, 120)
    parked = await add(runner, 1, delay=5000)
    request = pb.ListTasksRequest(status=["TASK_STATUS_SCHEDULED"])
    sizes = []
    while True:
        page = await list_tasks(runner, "acme", request)
        sizes.append(len(page.tasks))
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sizes == [0, 0, 1]
    assert [task.id for task in page.tasks] == parked


async def test_page_of_large_tasks_ends_at_the_byte_limit(runner: HeldRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 1000)
    ids = await add(runner, 9)
    page = await list_tasks(runner, "acme", pb.ListTasksRequest(page_size=500))
    assert 1 < len(page.tasks) < 5
    assert await listed(runner, page_size=500) == ids


@pytest.mark.parametrize("spoil", ["x", "AAAA", "%%%", "other"])
async def test_page_token_of_another_list_is_rejected(runner: HeldRunner, spoil: str) -> None:
    await add(runner, 3)
    page = await list_tasks(runner, "acme", pb.ListTasksRequest(page_size=1))
    request = pb.ListTasksRequest(page_token=page.next_page_token if spoil == "other" else spoil, command="a")
    with pytest.raises(Rejection) as refused:
        await list_tasks(runner, "acme", request)
    assert refused.value.reason is Reason.INVALID_PAGE_TOKEN


async def test_newest_first_list_merges_priorities_and_delays_by_acceptance_time(runner: HeldRunner) -> None:
    ids: list[str] = []
    for number in range(40):
        ids += await add(runner, 1, priority=number % 3, delay=5000 if number % 7 == 0 else 0)
        runner.clock.forward(1)
    other = await add(runner, 5, "b")
    for size in (1, 7, 500):
        assert await listed(runner, page_size=size, order_by="newest", command="a") == ids[::-1]
        assert await listed(runner, page_size=size, order_by="newest") == other[::-1] + ids[::-1]
    assert await listed(runner, order_by="newest", command="nothing") == []


async def test_newest_first_list_filters_by_status_and_time(runner: HeldRunner) -> None:
    early = await add(runner, 3)
    runner.clock.forward(1000)
    ids = await add(runner, 6)
    done = await take(runner, 2, Outcome.COMPLETED)
    assert done == early[:2]
    assert await listed(runner, order_by="newest", status=["TASK_STATUS_COMPLETED"]) == done[::-1]
    first = (await list_tasks(runner, "acme", pb.ListTasksRequest())).tasks[-1].created_at
    assert await listed(runner, order_by="newest", created_from=first) == ids[::-1]
    assert await listed(runner, order_by="newest", created_to=first) == early[::-1]


async def test_newest_first_list_shows_each_existing_task_once_while_tasks_are_added_and_moved(
    runner: HeldRunner,
) -> None:
    ids = await add(runner, 40)
    first = await list_newest(runner, "acme", pb.ListTasksRequest(page_size=20))
    await take(runner, 25, Outcome.NACK)
    await add(runner, 5, priority=9)
    await add(runner, 5)
    rest = await list_newest(runner, "acme", pb.ListTasksRequest(page_size=500, page_token=first.next_page_token))
    assert [task.id for task in (*first.tasks, *rest.tasks)] == ids[::-1]


async def test_newest_first_list_skips_many_retries_in_bounded_pages(
    runner: HeldRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest_first, "PAGE_ROWS_MAX", 50)
    ids = await add(runner, 120)
    await take(runner, 120, Outcome.NACK)
    request = pb.ListTasksRequest(page_size=500)
    sizes, told = [], []
    while True:
        page = await list_newest(runner, "acme", request)
        sizes.append(len(page.tasks))
        told += [task.id for task in page.tasks]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert told == ids[::-1]
    assert sizes[:2] == [0, 0]
    assert max(sizes) <= 50


@pytest.mark.parametrize("read", [list_tasks, list_newest])
async def test_both_orders_leave_out_commands_that_the_caller_does_not_see(
    read: Callable[..., Awaitable[pb.ListTasksResponse]], runner: HeldRunner
) -> None:
    seen = [*await add(runner, 2), *await add(runner, 1, "c")]
    await add(runner, 2, "b")
    page = await read(runner, "acme", pb.ListTasksRequest(), frozenset({"a", "c"}))
    assert sorted(task.id for task in page.tasks) == sorted(seen)


async def test_page_token_is_rejected_if_the_order_changes(runner: HeldRunner) -> None:
    await add(runner, 3)
    oldest = await list_tasks(runner, "acme", pb.ListTasksRequest(page_size=1))
    newest = await list_newest(runner, "acme", pb.ListTasksRequest(page_size=1))
    for read, token in ((list_newest, oldest.next_page_token), (list_tasks, newest.next_page_token)):
        with pytest.raises(Rejection) as refused:
            await read(runner, "acme", pb.ListTasksRequest(page_token=token))
        assert refused.value.reason is Reason.INVALID_PAGE_TOKEN
