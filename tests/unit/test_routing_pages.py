"""Lists over several shards: every item once, in order, whatever the pages are."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest
from codeq.v1 import audit_service_pb2 as audit_pb
from codeq.v1 import queue_service_pb2 as queue_pb
from codeq.v1 import task_pb2, tenant_service_pb2, topic_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.page_tokens import last_key, last_name, page_token
from codeq_server.services.routing.by_name import Named, list_by_name
from codeq_server.services.routing.merging import add_queue
from codeq_server.services.routing.pages import Listing, list_by_time
from codeq_server.services.routing.routed import Routed
from codeq_server.services.routing.router import SPREADS
from codeq_server.services.shards import Caller
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st
from several_shards import Installation
from test_routing import AUDIT, QUEUES, SHARDS, TENANTS, TOPICS, dead_letters, refused

LIST = "/codeq.v1.TaskService/ListTasks"
LIST_QUEUES = "/codeq.v1.QueueService/ListQueues"
KEY_BYTES = 12


class ListedShards:
    """Shards that are plain lists, in ascending order of time or name, and pages with a limit of examined rows."""

    def __init__(self, lists: list[list[int]], rows_max: int) -> None:
        self.count, self.mine = len(lists), 0
        self._lists = lists
        self._rows_max = rows_max
        """Rows examined for a page; every third number is a row that no filter lets pass."""

    async def call(
        self,
        shard: int,
        method: str,
        request: Any,
        caller: Caller,  # noqa: ARG002
        *,
        part: bool = False,  # noqa: ARG002
        seconds: float = 30.0,  # noqa: ARG002
    ) -> Message:
        await asyncio.sleep(0)
        numbers = self._lists[shard]
        if method == LIST_QUEUES:
            return self._queues(numbers, request)
        of = ("fake", request.command)
        at = int.from_bytes(last_key(request.page_token, KEY_BYTES, *of), "big") if request.page_token else 0
        page, begun = pb.ListTasksResponse(), at
        while at < len(numbers) and at - begun < self._rows_max and len(page.tasks) < request.page_size:
            if numbers[at] % 3:
                page.tasks.add(id=f"{shard}:{at}").created_at.FromNanoseconds(numbers[at])
            at += 1
        if at < len(numbers) or len(page.tasks) == request.page_size:
            page.next_page_token = page_token(at.to_bytes(KEY_BYTES, "big"), *of)
        return page

    @staticmethod
    def _queues(numbers: list[int], request: queue_pb.ListQueuesRequest) -> queue_pb.ListQueuesResponse:
        of = ("queues", "acme")
        after, count = last_name(request.page_token, *of), request.page_size or 100
        names = [name for name in (f"{number:04d}" for number in numbers) if name > after]
        page = queue_pb.ListQueuesResponse()
        # Like lists that hide what the caller does not see: the page may be shorter than the names examined.
        page.queues.extend([queue_pb.Queue(command=name, ready=1) for name in names[:count] if int(name) % 3])
        if len(names) > count:
            page.next_page_token = page_token(names[count - 1].encode(), *of)
        return page


def routed(shards: Any, method: str, request: Message) -> Routed:
    claims = Claims("s", "acme", frozenset(), frozenset(), "USER", is_admin=True)
    return Routed(Installed.methods[method], request, Caller(claims, "", ""))


class Installed:
    methods: dict[str, Any] = {}  # noqa: RUF012 - set once by the fixture below


@pytest.fixture(autouse=True)
async def shards() -> Installation:
    made = Installation(SHARDS)
    Installed.methods = dict(made.calls[0].methods)
    return made


async def pages_of(read: Callable[[str], Any], items: str) -> list[list[Any]]:
    """Returns the items of all pages."""
    pages: list[list[Any]] = []
    token = ""
    while True:
        page = await read(token)
        assert len(page.next_page_token) <= 4096
        pages.append(list(getattr(page, items)))
        token = page.next_page_token
        if not token:
            return pages
        assert len(pages) < 2000


LISTS = st.lists(st.lists(st.integers(1, 60), max_size=25).map(sorted), min_size=1, max_size=5)


@given(LISTS, st.integers(1, 7), st.integers(1, 12))
@example([[1, 3, 3, 3, 3, 4], [2]], 1, 2)
def test_merged_pages_by_time_show_every_item_once_in_order(lists: list[list[int]], size: int, rows_max: int) -> None:
    made = ListedShards(lists, rows_max)

    async def read(token: str) -> Any:
        request = pb.ListTasksRequest(page_size=size, page_token=token)
        return await list_by_time(made, routed(made, LIST, request), Listing("tasks", lambda _: by_time))

    pages = asyncio.run(pages_of(read, "tasks"))
    found = [task for page in pages for task in page]
    assert all(len(page) <= size for page in pages)
    wanted = [(number, f"{shard}:{at}") for shard, each in enumerate(lists) for at, number in enumerate(each)]
    assert sorted(task.id for task in found) == sorted(name for number, name in wanted if number % 3)
    times = [by_time(task) for task in found]
    assert times == sorted(times)


def by_time(task: task_pb2.Task) -> tuple[int]:
    return (task.created_at.ToNanoseconds(),)


@given(LISTS, st.integers(1, 7))
def test_merged_pages_by_name_show_every_name_once_with_the_sum(lists: list[list[int]], size: int) -> None:
    lists = [sorted(set(each)) for each in lists]
    made = ListedShards(lists, 0)

    async def read(token: str) -> Any:
        request = queue_pb.ListQueuesRequest(page_size=size, page_token=token)
        kind = Named("queues", "command", "queues", add=add_queue)
        return await list_by_name(made, routed(made, LIST_QUEUES, request), kind)

    pages = asyncio.run(pages_of(read, "queues"))
    found = [(int(queue.command), queue.ready) for page in pages for queue in page]
    wanted = sorted({number for each in lists for number in each if number % 3})
    assert found == [(number, sum(number in each for each in lists)) for number in wanted]


@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("command", ["", "a"])
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_tasks_of_all_shards_are_listed_once(shards: Installation, order: str, command: str, size: int) -> None:
    made = []
    for number in range(20):
        shards.clock.forward(1000)
        made.append(await shards.create((number * 7) % SHARDS, "a" if number % 5 else "b", priority=number % 3))
    wanted = [task_id for number, task_id in enumerate(made) if number % 5 or not command]

    async def read(token: str) -> Any:
        request = pb.ListTasksRequest(command=command, order_by=order, page_size=size, page_token=token)
        return await shards.call(1, "ListTasks", request)

    pages = await pages_of(read, "tasks")
    found = [task.id for page in pages for task in page]
    assert sorted(found) == sorted(wanted)
    assert all(len(page) == size for page in pages[:-1])
    if command and order == "newest":
        assert found == wanted[::-1]
    if command and order == "oldest":
        tasks = [task for page in pages for task in page]
        assert [-task.priority for task in tasks] == sorted(-task.priority for task in tasks)


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_dead_letters_of_all_shards_are_listed_with_groups_and_total(shards: Installation, order: str) -> None:
    made = await dead_letters(shards, 10)

    async def read(token: str) -> Any:
        request = queue_pb.ListDeadLettersRequest(command="a", order_by=order, page_size=3, page_token=token)
        page = await shards.call(2, QUEUES + "ListDeadLetters", request)
        assert page.total == 10
        assert [(group.error, group.count) for group in page.groups] == ([] if token else [("broken", 10)])
        return page

    found = [task.id for page in await pages_of(read, "tasks") for task in page]
    assert found == (made if order == "oldest" else made[::-1])
    unknown = queue_pb.ListDeadLettersRequest(command="b")
    assert (await refused(shards, 0, QUEUES + "ListDeadLetters", unknown)).reason is Reason.QUEUE_NOT_FOUND


async def test_dead_letters_of_a_queue_that_one_shard_has_are_listed(shards: Installation) -> None:
    task_id = await shards.create(3, max_attempts=1)
    await shards.claim(3)
    await shards.call(0, "NackTask", pb.NackTaskRequest(task_id=task_id))
    page = await shards.call(0, QUEUES + "ListDeadLetters", queue_pb.ListDeadLettersRequest(command="a"))
    assert ([task.id for task in page.tasks], page.total) == ([task_id], 1)


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_audit_records_of_all_shards_are_listed_by_time(shards: Installation, order: str) -> None:
    for number in range(12):
        shards.clock.forward(1000)
        task_id = await shards.create(number % SHARDS)
        with pytest.raises(Rejection):
            await shards.call(0, "RedriveTask", pb.RedriveTaskRequest(task_id=task_id))

    async def read(token: str) -> Any:
        return await shards.call(
            0, AUDIT, audit_pb.ListAuditRecordsRequest(page_size=5, page_token=token, order_by=order)
        )

    times = [record.at.seconds for page in await pages_of(read, "records") for record in page]
    assert len(times) == 12
    assert times == sorted(times, reverse=order == "newest")


async def test_queues_and_tenants_of_all_shards_are_listed_by_name(shards: Installation) -> None:
    for number in range(12):
        await shards.create(number % SHARDS, f"c{number % 5}", tenant=f"tenant-{number % 3}")
        await shards.create(number % SHARDS, f"c{number % 5}")

    async def queues(token: str) -> Any:
        return await shards.call(0, QUEUES + "ListQueues", queue_pb.ListQueuesRequest(page_size=2, page_token=token))

    async def tenants(token: str) -> Any:
        request = tenant_service_pb2.ListTenantsRequest(page_size=1, page_token=token)
        return await shards.call(0, TENANTS + "ListTenants", request)

    found = [(queue.command, queue.ready) for page in await pages_of(queues, "queues") for queue in page]
    assert found == [("c0", 3), ("c1", 3), ("c2", 2), ("c3", 2), ("c4", 2)]
    named = [(each.name, each.usage.waiting_tasks) for page in await pages_of(tenants, "tenants") for each in page]
    assert named == [("acme", 12), ("tenant-0", 4), ("tenant-1", 4), ("tenant-2", 4)]


async def test_topics_are_listed_once(shards: Installation) -> None:
    for command in ("a", "b"):
        put = topic_service_pb2.PutTopicRequest(command=command, policy=topic_service_pb2.QueuePolicy(max_attempts=1))
        await shards.call(2, TOPICS + "PutTopic", put)
    page = await shards.call(3, TOPICS + "ListTopics", topic_service_pb2.ListTopicsRequest())
    assert [topic.topic_name for topic in page.topics] == ["a", "b"]


async def token_of_tasks(shards: Installation) -> str:
    for number in range(9):
        await shards.create(number % SHARDS)
    page = await shards.call(0, "ListTasks", pb.ListTasksRequest(page_size=2))
    return str(page.next_page_token)


async def test_page_token_is_only_valid_for_its_list_and_tenant(shards: Installation) -> None:
    token = await token_of_tasks(shards)
    for request, tenant in (
        (pb.ListTasksRequest(page_token=token, command="a"), "acme"),
        (pb.ListTasksRequest(page_token=token, order_by="newest"), "acme"),
        (pb.ListTasksRequest(page_token=token), "other"),
        (pb.ListTasksRequest(page_token=token, status=[task_pb2.TASK_STATUS_DLQ]), "acme"),
        (pb.ListTasksRequest(page_token="garbage"), "acme"),
        (pb.ListTasksRequest(page_token=token + "A"), "acme"),
        (pb.ListTasksRequest(page_token=token[:-4]), "acme"),
    ):
        refusal = await refused(shards, 0, "ListTasks", request, tenant)
        assert refusal.reason is Reason.INVALID_PAGE_TOKEN
    audit = audit_pb.ListAuditRecordsRequest(page_token=token)
    assert (await refused(shards, 0, AUDIT, audit)).reason is Reason.INVALID_PAGE_TOKEN
    other = Installation(SHARDS + 1)
    await token_of_tasks(other)
    elsewhere = await refused(other, 0, "ListTasks", pb.ListTasksRequest(page_token=token))
    assert elsewhere.reason is Reason.INVALID_PAGE_TOKEN


async def test_page_token_is_valid_for_the_same_list_in_other_words(shards: Installation) -> None:
    token = await token_of_tasks(shards)
    same = pb.ListTasksRequest(page_token=token, page_size=50, order_by="oldest")
    assert len((await shards.call(3, "ListTasks", same)).tasks) == 7
    for number in range(8):
        task_id = await shards.create(number % SHARDS, "dead", max_attempts=1)
        await shards.claim(number % SHARDS, commands=("dead",))
        await shards.call(0, "NackTask", pb.NackTaskRequest(task_id=task_id))
    request = queue_pb.RedriveTasksRequest(command="dead", limit=3)
    token = (await shards.call(0, QUEUES + "RedriveTasks", request)).next_page_token
    again = queue_pb.RedriveTasksRequest(
        command="dead", tenant="acme", status=task_pb2.TASK_STATUS_DLQ, dry_run=True, page_token=token
    )
    assert (await shards.call(1, QUEUES + "RedriveTasks", again)).matched == 5


async def test_page_token_with_changed_positions_is_rejected_or_shows_a_page(shards: Installation) -> None:
    """A token is not secret, so any bytes after its digest must be harmless."""
    token = await token_of_tasks(shards)
    content = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    rejected = 0
    for at in range(8, len(content)):
        changed = bytes(content[:at]) + bytes([content[at] ^ 0xFF]) + bytes(content[at + 1 :])
        request = pb.ListTasksRequest(page_token=base64.urlsafe_b64encode(changed).decode().rstrip("="))
        try:
            await shards.call(0, "ListTasks", request)
        except Rejection as refusal:
            assert refusal.reason is Reason.INVALID_PAGE_TOKEN  # noqa: PT017 - either is right
            rejected += 1
    assert rejected


async def test_pages_of_32_shards_have_tokens_that_may_be_sent_back() -> None:
    shards = Installation(32)
    made = [await shards.create(number % 32) for number in range(96)]

    async def read(token: str) -> Any:
        return await shards.call(0, "ListTasks", pb.ListTasksRequest(page_size=40, page_token=token, order_by="newest"))

    found = [task.id for page in await pages_of(read, "tasks") for task in page]
    assert sorted(found) == sorted(made)


def test_lists_by_time_are_those_with_composite_tokens() -> None:
    """Their page tokens may be longer than those of other lists; the protos say so."""
    for name, spread in SPREADS.items():
        kind = getattr(spread, "keywords", {}).get("kind")
        if isinstance(kind, Listing):
            field = Installed.methods[name].descriptor.input_type.fields_by_name["page_token"]
            assert "max_len: 4096" in str(field.GetOptions())
