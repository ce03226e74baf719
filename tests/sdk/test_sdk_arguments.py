"""Invalid arguments of producers, clients and workers are rejected by name before anything is sent."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import codeq
import pytest
from codeq import errors
from codeq.arguments import SECONDS_MAX
from codeq.backoff import Backoff
from codeq.dialing import Target
from codeq.records import Task
from codeq.servers import Servers
from codeq.streams import Reconnects
from codeq.v1 import task_pb2
from server_process import DEV_TOKEN, ServerProcess

NOWHERE = "127.0.0.1:1"

NO_SECONDS = [
    pytest.param(value, kind, id=str(value))
    for value, kind in [
        (math.inf, ValueError),
        (math.nan, ValueError),
        (-1, ValueError),
        (1e10, ValueError),
        (SECONDS_MAX + 1, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ]
]


@pytest.mark.parametrize("make", [codeq.Producer, codeq.AsyncProducer, codeq.Client, codeq.AsyncClient])
@pytest.mark.parametrize(("seconds", "kind"), [*NO_SECONDS, (0, ValueError), (10**400, ValueError), (None, TypeError)])
def test_invalid_client_timeout_is_rejected(make: Callable[..., object], seconds: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="timeout_seconds"):
        make(NOWHERE, timeout_seconds=seconds)
    make(NOWHERE, timeout_seconds=SECONDS_MAX)


@pytest.mark.parametrize(("seconds", "kind"), [*NO_SECONDS, (0, ValueError), (1e300, ValueError)])
async def test_invalid_call_timeout_is_rejected_before_anything_is_sent(seconds: Any, kind: type[Exception]) -> None:
    with codeq.Producer(NOWHERE, timeout_seconds=1) as producer:
        with pytest.raises(kind, match="timeout_seconds"):
            producer.create("X", timeout_seconds=seconds)
        with pytest.raises(kind, match="timeout_seconds"):
            producer.create_batch([codeq.NewTask("X")], timeout_seconds=seconds)
    async with codeq.AsyncProducer(NOWHERE, timeout_seconds=1) as others:
        with pytest.raises(kind, match="timeout_seconds"):
            await others.create("X", timeout_seconds=seconds)


@pytest.mark.parametrize("wait", [math.inf, math.nan, -1, 2**31, "1"])
async def test_invalid_wait_raises_invalid_field(wait: Any) -> None:
    with codeq.Client(NOWHERE, timeout_seconds=1) as client:
        for call in (lambda: client.result("t", wait=wait), lambda: client.claim(wait=wait)):
            with pytest.raises(codeq.InvalidField) as caught:
                call()
            assert [violation.field for violation in caught.value.violations] == ["wait_seconds"]
    async with codeq.AsyncClient(NOWHERE, timeout_seconds=1) as others:
        with pytest.raises(codeq.InvalidField):
            await others.claim(wait=wait)


async def test_longest_durations_reach_the_server(shared_server: ServerProcess) -> None:
    options: dict[str, Any] = {"token": DEV_TOKEN, "timeout_seconds": SECONDS_MAX}
    with codeq.Producer(shared_server.producer_addr, **options) as producer:
        task_id = producer.create("LONGEST", timeout_seconds=SECONDS_MAX)
    with codeq.Client(shared_server.producer_addr, **options) as client:
        assert client.get(task_id).id == task_id
        with pytest.raises(codeq.InvalidField, match="wait"):
            client.result(task_id, wait=2**31 - 1)
    async with codeq.AsyncClient(shared_server.producer_addr, **options) as others:
        with pytest.raises(codeq.InvalidField, match="wait"):
            await others.result(task_id, wait=2**31 - 1)


@pytest.mark.parametrize("make", [codeq.Worker, codeq.AsyncWorker])
@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        *[("drain_seconds", *param.values) for param in NO_SECONDS],
        *[("lease_seconds", value, ValueError) for value in (0, -1, 43_201)],
        *[("lease_seconds", value, TypeError) for value in (math.nan, math.inf, 2.5, True, "1", None)],
        *[("concurrency", value, kind) for value, kind in ((0, ValueError), (65_537, ValueError), (2.0, TypeError))],
        *[("window_bytes", value, kind) for value, kind in ((0, ValueError), (2**31, ValueError), (2.0, TypeError))],
        *[("name", value, kind) for value, kind in (("\ud800", ValueError), ("a b", ValueError), (b"a", TypeError))],
        ("name", "a" * 65, ValueError),
    ],
)
def test_worker_argument_out_of_bounds_is_rejected(
    make: Callable[..., object], name: str, value: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=name):
        make(NOWHERE, **{name: value})


@pytest.mark.parametrize(("seconds", "kind"), NO_SECONDS)
def test_invalid_drain_time_is_rejected(seconds: Any, kind: type[Exception]) -> None:
    worker = codeq.Worker(NOWHERE, drain_seconds=0)
    with pytest.raises(kind, match="drain_seconds"):
        worker.stop(seconds)
    worker.stop(0)


@pytest.mark.parametrize("make", [codeq.Producer, codeq.AsyncProducer])
@pytest.mark.parametrize(("name", "kind"), [("\ud800", ValueError), ("a" * 129, ValueError), (b"a", TypeError)])
def test_invalid_producer_name_is_rejected(make: Callable[..., object], name: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="client_name"):
        make(NOWHERE, client_name=name)


@pytest.mark.parametrize("wrong", [None, "A", {"command": "A"}])
async def test_batch_item_that_is_not_a_task_is_rejected_with_its_index(wrong: Any) -> None:
    tasks = [codeq.NewTask("X"), wrong]
    with codeq.Producer(NOWHERE, timeout_seconds=1) as producer, codeq.Client(NOWHERE, timeout_seconds=1) as client:
        for create_batch in (producer.create_batch, client.create_batch):
            with pytest.raises(TypeError, match=r"tasks\[1\] must be a NewTask"):
                create_batch(tasks)
    async with codeq.AsyncProducer(NOWHERE, timeout_seconds=1) as others:
        with pytest.raises(TypeError, match=r"tasks\[1\] must be a NewTask"):
            await others.create_batch(tasks)


@pytest.mark.parametrize("wrong", ["RESIZE", b"RESIZE", [b"RESIZE"], [5]])
def test_value_that_is_not_a_list_of_strings_is_rejected(wrong: Any) -> None:
    with codeq.Client(NOWHERE, timeout_seconds=1) as client:
        with pytest.raises(TypeError, match="commands must be a list"):
            client.claim(wrong)
        with pytest.raises(TypeError, match="statuses must be a list"):
            client.tasks(statuses=wrong)
    with pytest.raises(TypeError, match="commands must be a list"):
        codeq.Worker(NOWHERE).run(print, commands=wrong)


@pytest.mark.parametrize("wrong", ["\ud800", 5])
def test_name_that_cannot_be_sent_raises_invalid_field(wrong: Any) -> None:
    with codeq.Client(NOWHERE, timeout_seconds=1) as client:
        by_id = (client.get, client.explain, client.redrive, client.cancel, client.result, client.heartbeat)
        by_command = (client.queue, client.pause_queue, client.resume_queue, client.purge_queue, client.dead_letters)
        for field, calls in (("task_id", by_id), ("command", by_command), ("name", (client.back_up,))):
            for call in calls:
                with pytest.raises(codeq.InvalidField, match=field):
                    call(wrong)


@pytest.mark.parametrize("make", [codeq.Producer, codeq.AsyncClient, codeq.Worker])
@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (b"localhost:9092", TypeError),
        ([b"localhost:9092"], TypeError),
        (["localhost:9092", None], TypeError),
        (9092, TypeError),
        ("localhost:١٧١٠٢", ValueError),
        ("localhost:" + "9" * 5000, ValueError),
        ("::1:17102", ValueError),
        ("[::1]", ValueError),
    ],
)
def test_malformed_address_is_rejected(make: Callable[..., object], address: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="address"):
        make(address)


def test_ipv4_and_ipv6_addresses_are_accepted() -> None:
    assert Target.parse("[::1]:17102") == Target("::1", 17102, "[::1]:17102")
    assert Target.parse("dns:///127.0.0.1:17102") == Target("127.0.0.1", 17102, "127.0.0.1:17102")


@pytest.mark.parametrize("text", ["{", "", "NaN", "[1] 2", b"\xff", "[" * 100_000, '"\n"'])
def test_progress_that_is_not_json_is_rejected_at_once(text: str | bytes) -> None:
    task = Task(task_pb2.Task(id="a"))
    told: list[bytes] = []
    task.reporter = lambda _, data: told.append(data)
    with pytest.raises((codeq.InvalidField, codeq.TooLarge), match="progress"):
        task.progress(codeq.RawJson(text))
    task.progress(codeq.RawJson("[" + "9" * 5000 + ", 1.5e3]"))
    assert len(told) == 1


def test_integer_too_long_for_python_only_fails_reads_of_the_payload(shared_server: ServerProcess) -> None:
    data = b'{"n":' + b"9" * 5000 + b"}"
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        task = client.get(client.create("DIGITS", codeq.RawJson(data)).id)
    assert task.payload_bytes == data
    with pytest.raises(ValueError, match=r"payload has 5006 bytes .* digits"):
        _ = task.payload


def test_redirect_to_the_leader_is_logged_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def tell(error: errors.CodeqError) -> int:
        reconnects = Reconnects("producer", Servers(["a:1", "b:1"]), Backoff())
        caplog.clear()
        reconnects.tell(error, "a:1", reconnects.delay_after(error, "a:1", leader="", is_stable=False), 0.0)
        [record] = caplog.records
        return record.levelno

    caplog.set_level(logging.INFO, "codeq")
    assert tell(errors.NotLeader("no", metadata={"leaderGrpc": "b:1"})) == logging.INFO
    assert tell(errors.NotLeader("no")) == logging.WARNING
    assert tell(errors.Unavailable("gone")) == logging.WARNING
