"""Creating many tasks: iterators, futures, limits of the creates in flight, and keys of requests."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import codeq
import pytest
from codeq import runtime
from codeq.in_flight import AsyncInFlight, InFlight
from scripted_server import Produce, ScriptedServer, ack, welcome_producer
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually

COUNT = 1500


def numbered(command: str, count: int = COUNT) -> Iterator[codeq.NewTask]:
    """Tasks with their number as payload; every hundredth cannot be encoded."""
    for number in range(count):
        yield codeq.NewTask(command, object() if number % 100 == 7 else number)


def check_all(results: list[str | codeq.CodeqError], command: str, server: ServerProcess) -> None:
    """Checks that each task was created, in order, and that those that cannot be encoded have their errors."""
    assert len(results) == COUNT
    for number, result in enumerate(results):
        assert isinstance(result, codeq.InvalidField if number % 100 == 7 else str), number
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        for number in (0, 1234, COUNT - 1):
            assert client.get(str(results[number])).payload == number
        assert client.queue(command).ready == COUNT - COUNT // 100


def test_create_all_yields_ids_and_errors_in_order(shared_server: ServerProcess) -> None:
    with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        results = list(producer.create_all(numbered("all-sync"), in_flight=100))
    check_all(results, "all-sync", shared_server)


@pytest.mark.parametrize("is_async", [False, True])
async def test_async_create_all_takes_iterables_of_both_kinds(is_async: bool, shared_server: ServerProcess) -> None:
    command = f"all-async-{is_async}"

    async def source() -> AsyncIterator[codeq.NewTask]:
        for task in numbered(command):
            yield task

    tasks = source() if is_async else numbered(command)
    async with codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        results = [result async for result in producer.create_all(tasks)]
    check_all(results, command, shared_server)


async def hold_frames(stream: Produce) -> None:
    """Welcomes a producer and answers its frames only once it is told to."""
    await welcome_producer(stream)
    async for frame in stream:
        await may_answer.wait()
        await stream.write(ack(frame))


may_answer: asyncio.Event


async def test_create_all_reads_its_source_only_as_fast_as_tasks_are_created() -> None:
    global may_answer  # noqa: PLW0603 - the script is called without arguments of its own
    may_answer = asyncio.Event()
    read = 0

    def source() -> Iterator[codeq.NewTask]:
        nonlocal read
        for number in range(50):
            read += 1
            yield codeq.NewTask("X", number)

    async with ScriptedServer(hold_frames) as server, codeq.AsyncProducer(server.address) as producer:
        results = producer.create_all(source(), in_flight=8)
        first = asyncio.ensure_future(anext(results))
        await eventually(lambda: read == 9)  # eight are in flight, and one waits for room
        for _ in range(20):
            await asyncio.sleep(0)
        assert read == 9
        may_answer.set()
        assert await first == "0"
        assert [result async for result in results] == [str(number) for number in range(1, 50)]


async def test_error_of_the_source_ends_create_all_after_the_tasks_before(shared_server: ServerProcess) -> None:
    def source() -> Iterator[codeq.NewTask]:
        yield codeq.NewTask("all-broken", 1)
        raise LookupError("no more")

    results = []
    async with codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        with pytest.raises(LookupError, match="no more"):
            results.extend([result async for result in producer.create_all(source())])
        with pytest.raises(TypeError, match="must be a NewTask"):
            [result async for result in producer.create_all([{"command": "X"}])]  # type: ignore[list-item]


def test_future_has_the_id_and_its_callbacks_run_on_no_thread_of_the_transport(shared_server: ServerProcess) -> None:
    told: list[str] = []
    called = threading.Event()

    def note(future: concurrent.futures.Future[str]) -> None:
        told.extend((future.result(), threading.current_thread().name))
        called.set()

    with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        future = producer.create_future("futures", {"n": 1}, priority=3)
        future.add_done_callback(note)
        assert called.wait(20)
        assert not future.cancel()
        bad = producer.create_future("not a command", 1)
        assert isinstance(bad.exception(20), codeq.InvalidField)
        with pytest.raises(codeq.InvalidField):
            producer.create_future("futures", object())
    assert told == [future.result(), told[1]]
    assert told[1] != "codeq-transport"
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        assert client.get(future.result()).priority == 3


def test_closing_a_producer_settles_its_futures(shared_server: ServerProcess) -> None:
    with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        futures = [producer.create_future("futures-closed", number) for number in range(200)]
    assert all(future.done() for future in futures)
    assert len({future.result() for future in futures}) == 200
    with pytest.raises(codeq.Closed):
        raise producer.create_future("futures-closed").exception(20) or AssertionError("created")


def test_creates_begun_before_the_close_are_made_even_if_another_thread_is_about_to_wake_the_loop(
    shared_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_waking, may_wake = threading.Event(), threading.Event()
    wake = asyncio.BaseEventLoop.call_soon_threadsafe

    def wake_late(*args: Any, **kwargs: Any) -> asyncio.Handle:
        if threading.current_thread() is other:
            is_waking.set()
            assert may_wake.wait(20)
        return wake(*args, **kwargs)

    with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        producer.create("futures-woken")
        other = threading.Thread(target=producer.create_future, args=("futures-woken",))
        monkeypatch.setattr(type(runtime.loop()), "call_soon_threadsafe", wake_late)
        other.start()
        assert is_waking.wait(20)
        future = producer.create_future("futures-woken")
    may_wake.set()
    other.join(20)
    assert future.done()
    assert isinstance(future.result(), str)


def test_close_returns_within_the_timeout_even_if_a_callback_blocks() -> None:
    blocking, may_end = threading.Event(), threading.Event()

    def block(_: object) -> None:
        blocking.set()
        may_end.wait(20)

    try:
        producer = codeq.Producer("127.0.0.1:1", timeout_seconds=1.0)
        producer.create_future("X", timeout_seconds=0.05).add_done_callback(block)
        assert blocking.wait(20)
        producer.create_future("X", timeout_seconds=10)
        begun = time.monotonic()
        producer.close()
        assert time.monotonic() - begun < 5
    finally:
        may_end.set()


FORKING = """
import os, codeq

def check(producer):
    assert producer.create_future("futures-forked").result(20)
    assert all(isinstance(each, str) for each in producer.create_all([codeq.NewTask("futures-forked")] * 3))

inherited = codeq.Producer()
check(inherited)
child = os.fork()
if child == 0:
    code = 1
    try:
        inherited.create_future("futures-forked")
    except codeq.Forked:
        with codeq.Producer() as own:
            check(own)
        code = 0
    finally:
        os._exit(code)
check(inherited)
inherited.close()
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_futures_and_iterators_work_on_both_sides_of_a_fork(shared_server: ServerProcess) -> None:
    env = {"CODEQ_PRODUCER_ADDR": shared_server.producer_addr, "CODEQ_TOKEN": DEV_TOKEN}
    ran = subprocess.run(
        [sys.executable, "-c", FORKING], env={**os.environ, **env}, check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_callback_that_raises_does_not_stop_other_futures(shared_server: ServerProcess) -> None:
    with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN) as producer:
        bad = producer.create_future("futures-raise")
        bad.add_done_callback(lambda _: 1 // 0)
        assert producer.create_future("futures-raise").result(20)


async def test_fail_fast_producer_refuses_creates_above_the_limit() -> None:
    global may_answer  # noqa: PLW0603 - see above
    may_answer = asyncio.Event()
    async with (
        ScriptedServer(hold_frames) as server,
        codeq.AsyncProducer(server.address, in_flight_max=3, fail_fast=True) as producer,
    ):
        calls = [asyncio.create_task(producer.create("X", number)) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(codeq.LimitReached, match="in_flight_max") as caught:
            await producer.create("X")
        assert (caught.value.reason, caught.value.retryable) == ("LIMIT_REACHED", True)
        may_answer.set()
        assert await asyncio.gather(*calls) == ["0", "1", "2"]
        assert await producer.create("X", 4) == "4"


async def test_creates_above_the_limit_wait_for_room_or_their_timeout() -> None:
    global may_answer  # noqa: PLW0603 - see above
    may_answer = asyncio.Event()
    async with ScriptedServer(hold_frames) as server, codeq.AsyncProducer(server.address, in_flight_max=2) as producer:
        calls = [asyncio.create_task(producer.create("X", number)) for number in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(codeq.DeadlineExceeded, match="in_flight_max"):
            await producer.create("X", timeout_seconds=0.1)
        may_answer.set()
        assert await asyncio.gather(*calls) == [str(number) for number in range(5)]


def test_threads_wait_for_room_and_big_batches_get_in_alone() -> None:
    room = InFlight(2, fail_fast=False)
    room.enter(2, 0)
    with pytest.raises(codeq.DeadlineExceeded):
        room.enter(1, 0)
    entered = threading.Event()

    def enter() -> None:
        room.enter(100, 1e9)
        entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    room.leave(1)
    assert not entered.wait(0.1)
    room.leave(1)
    assert entered.wait(10)
    thread.join()
    full = InFlight(1, fail_fast=True)
    full.enter(1, 0)
    with pytest.raises(codeq.LimitReached):
        full.enter(1, 0)


def test_signal_handler_gets_in_while_its_thread_is_getting_in() -> None:
    room = InFlight(1, fail_fast=False)
    room.enter(1, 0)
    with room._guard:  # where a signal may interrupt the main thread
        leaving = threading.Thread(target=room.leave, args=(1,))
        leaving.start()
        leaving.join(10)
        assert not leaving.is_alive()
        room.enter(1, 0)


async def test_room_of_a_cancelled_waiter_goes_to_the_next() -> None:
    room = AsyncInFlight(1, fail_fast=False)
    far = asyncio.get_running_loop().time() + 60
    await room.enter(1, far)
    waiters = [asyncio.create_task(room.enter(1, far)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    room.leave(1)
    await asyncio.wait_for(waiters[1], 10)
    assert not waiters[2].done()
    room.leave(1)
    await asyncio.wait_for(waiters[2], 10)


@pytest.mark.parametrize("name", ["in_flight_max"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, 1_000_001])
def test_wrong_limits_are_refused(name: str, value: int) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        codeq.Producer(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("has_keys", [False, True])
async def test_create_of_a_broken_stream_is_repeated_only_with_a_key(has_keys: bool) -> None:
    keys: list[str] = []

    async def breaking(stream: Produce) -> None:
        await welcome_producer(stream)
        keys.append((await stream.read()).tasks[0].idempotency_key)
        await stream.abort("INTERNAL")

    async def working(stream: Produce) -> None:
        await welcome_producer(stream)
        async for frame in stream:
            keys.append(frame.tasks[0].idempotency_key)
            await stream.write(ack(frame))

    async with (
        ScriptedServer(breaking, working) as server,
        codeq.AsyncProducer(server.address, request_keys=has_keys) as producer,
    ):
        if has_keys:
            assert await producer.create("X", 5) == "5"
            assert keys[0] == keys[1] != ""
        else:
            with pytest.raises(codeq.OutcomeUnknown):
                await producer.create("X", 5)
            assert keys == [""]


class Counting(codeq.Metrics):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def created(self, count: int, failed: int, seconds: float) -> None:
        assert seconds >= 0
        self.told.append((count, failed))
        raise RuntimeError("a hook that fails")


async def test_metrics_hook_is_told_of_creates_whatever_it_raises(shared_server: ServerProcess) -> None:
    metrics = Counting()
    with codeq.Producer(shared_server.producer_addr, token=DEV_TOKEN, metrics=metrics) as producer:
        producer.create("metrics")
        producer.create_batch([codeq.NewTask("metrics"), codeq.NewTask("no command")])
        producer.create_future("metrics").result(20)
    async with codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN, metrics=metrics) as own:
        await own.create("metrics")
    assert metrics.told == [(1, 0), (2, 1), (1, 0), (1, 0)]
    with pytest.raises(TypeError, match="metrics"):
        codeq.Producer(metrics=object())  # type: ignore[arg-type]
