"""Profiles of a running server: what they contain and leave behind, their formats, and who may ask for them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import os
import signal
import socket
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import codeq_server.profiling.listener
import pytest
from codeq_server.node.event_loop import ServerLoop
from codeq_server.profiling import heap, sampling
from codeq_server.profiling.formats import PPROF, SPEEDSCOPE, encoded
from codeq_server.profiling.listener import CONNECTIONS_MAX, CPU_PATH, HEAP_PATH, LEVEL_PATH, DebugListener
from codeq_server.profiling.stacks import Frame, Measure, Profile

INNER, OUTER = Frame("inner", "/x/a.py", 7), Frame("outer", "/x/b.py", 300)


def two_stacks() -> Profile:
    profile = Profile((Measure("samples", "count"), Measure("cpu", "nanoseconds")), 5, 2.0, 10)
    profile.add((INNER, OUTER), 1, 100)
    profile.add((OUTER,), 1, 40)
    profile.add((INNER, OUTER), 1, 200)
    return profile


# -- what they contain ---------------------------------------------------------------------------------------------


def cpu_by_function(profile: Profile) -> Counter[str]:
    """Returns the CPU time in nanoseconds by innermost function."""
    return sum((Counter({stack[0].function: values[-1]}) for stack, values in profile.stacks.items()), Counter())


@contextmanager
def profiled(seconds: float) -> Iterator[list[Profile]]:
    """Profiles this thread from within another one until the context ends, and adds the profile then."""
    made: list[Profile] = []
    sampler, stop = sampling.Sampler(threading.current_thread()), threading.Event()
    thread = threading.Thread(target=lambda: made.append(sampler.sample(seconds, stop)))
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()
        sampler.close()


def crunch() -> None:
    for _ in range(20_000):
        pass


def breathe() -> None:
    time.sleep(0.0001)


def use_cpu(seconds: float) -> int:
    """Uses CPU time, mostly in `crunch`, and gives up Python's lock often; returns the time in nanoseconds."""
    began = used = time.thread_time_ns()
    while used - began < seconds * 1e9:
        crunch()
        breathe()
        used = time.thread_time_ns()
    return used - began


def test_cpu_profile_shows_pure_python_beside_calls_that_give_up_the_lock() -> None:
    with profiled(60) as made:
        used = use_cpu(0.5)
    by_function = cpu_by_function(made[0])
    assert by_function["crunch"] > 0.8 * by_function.total()
    assert 0.8 * used < by_function.total() < 1.2 * used


def grind() -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)  # gives up the lock, and runs no Python code


def test_cpu_profile_shows_a_thread_that_runs_no_python_code() -> None:
    with profiled(0.7) as made:
        grind()
    assert cpu_by_function(made[0])["grind"] >= sampling.STUCK_NS


def test_idle_thread_has_next_to_no_cpu_time() -> None:
    with profiled(60) as made:
        time.sleep(0.2)
    assert cpu_by_function(made[0]).total() < 0.02 * 1e9


def test_profile_leaves_no_timer_and_no_handler() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with profiled(60):
        use_cpu(0.05)
        assert signal.getsignal(signal.SIGPROF) != before
    assert signal.getsignal(signal.SIGPROF) == before
    use_cpu(0.05)  # a signal would end the process


async def profile_of_busy_loop(listener: DebugListener) -> bytes:
    """Returns a profile of a loop that computes, reads a socket, sleeps and gets other signals meanwhile."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    asking = asyncio.create_task(asyncio.to_thread(ask, listener, "GET", f"{CPU_PATH}?seconds=1&format=speedscope"))
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    with reading, writing:
        while not asking.done():
            crunch()
            writing.send(b"x")
            assert await loop.sock_recv(reading, 1) == b"x"
            heard.clear()
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.wait_for(heard.wait(), 10)
            await asyncio.sleep(0.001)
    loop.remove_signal_handler(signal.SIGUSR1)
    status, body = await asking
    assert status == 200
    return body


@pytest.mark.parametrize("new_loop", [ServerLoop, asyncio.new_event_loop])
def test_profile_disturbs_no_event_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with listening(Level()) as listener, asyncio.Runner(loop_factory=new_loop) as runner:
        profile = json.loads(runner.run(profile_of_busy_loop(listener)))
    assert "crunch" in {each["name"] for each in profile["shared"]["frames"]}


def burn(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(1_000))


def test_other_threads_are_sampled_from_outside() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=burn, args=(stop,))
    thread.start()
    profile = sampling.Sampler(thread).sample(0.2, threading.Event())
    stop.set()
    thread.join()
    assert profile.stacks
    burning = sum(values[-1] for stack, values in profile.stacks.items() if any(f.function == "burn" for f in stack))
    assert burning > sum(values[-1] for values in profile.stacks.values()) * 0.9
    assert burning <= 1e9


def allocate(kept: list[bytes], stop: threading.Event) -> None:
    while not tracemalloc.is_tracing():
        stop.wait(0.001)
    kept.extend(bytes(1_000) for _ in range(1_000))
    stop.set()


def test_heap_profile_shows_what_is_allocated_and_still_in_use() -> None:
    kept: list[bytes] = []
    stop = threading.Event()
    thread = threading.Thread(target=allocate, args=(kept, stop))
    thread.start()
    profile = heap.record(30, stop)
    thread.join()
    mine = [values for stack, values in profile.stacks.items() if stack[0].file == __file__]
    assert sum(objects for objects, _ in mine) >= 1_000
    assert sum(size for _, size in mine) >= 1_000_000
    assert not tracemalloc.is_tracing()


# -- formats -------------------------------------------------------------------------------------------------------


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields number and value of each field of a message, which has only varints and delimited fields."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            assert tag & 7 == 2
            size = varint()
            at += size
            yield tag >> 3, message[at - size : at]


def test_pprof_profile_has_stacks_values_and_names() -> None:
    found = list(fields(gzip.decompress(encoded(two_stacks(), PPROF))))
    texts = [value.decode() for number, value in found if number == 6 and isinstance(value, bytes)]
    assert texts[0] == ""
    messages = {
        number: [dict(fields(v)) for n, v in found if n == number and isinstance(v, bytes)] for number in (1, 2, 4, 5)
    }
    assert [(texts[int(each[1])], texts[int(each[2])]) for each in messages[1]] == [
        ("samples", "count"),
        ("cpu", "nanoseconds"),
    ]
    functions = {each[1]: (texts[int(each[2])], texts[int(each[4])]) for each in messages[5]}
    lines = {}
    for each in messages[4]:
        line = each[4]
        assert isinstance(line, bytes)
        of = dict(fields(line))
        lines[each[1]] = (*functions[of[1]], of[2])
    stacks = []
    for each in messages[2]:
        ids, values = each[1], each[2]
        assert isinstance(ids, bytes)
        assert isinstance(values, bytes)
        stacks.append(([lines[number] for number in ids], values))
    assert stacks == [
        ([("inner", "/x/a.py", 7), ("outer", "/x/b.py", 300)], b"\x02\xac\x02"),
        ([("outer", "/x/b.py", 300)], b"\x01\x28"),
    ]
    assert {number: value for number, value in found if number in {9, 10, 12}} == {9: 5, 10: 2_000_000_000, 12: 10}


def test_speedscope_profile_has_the_outermost_frame_first() -> None:
    found = json.loads(encoded(two_stacks(), SPEEDSCOPE))
    frames = [each["name"] for each in found["shared"]["frames"]]
    (profile,) = found["profiles"]
    assert [[frames[number] for number in each] for each in profile["samples"]] == [["outer", "inner"], ["outer"]]
    assert (profile["weights"], profile["unit"], profile["endValue"]) == ([300, 40], "nanoseconds", 340)


# -- the listener --------------------------------------------------------------------------------------------------


class Level:
    """The level of a log."""

    def __init__(self) -> None:
        self.level = "info"

    def set(self, level: str) -> None:
        self.level = level


@contextmanager
def listening(level: Level) -> Iterator[DebugListener]:
    listener = DebugListener("127.0.0.1", 0, lambda: level.level, level.set)
    try:
        yield listener
    finally:
        listener.stop()


def ask(
    listener: DebugListener, method: str, path: str, body: bytes = b"", host: str = "localhost", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=30)
    try:
        connection.request(method, path, body, {"Host": host, **headers})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_listener_serves_profiles_in_both_formats() -> None:
    with listening(Level()) as listener:
        status, body = ask(listener, "GET", f"{CPU_PATH}?seconds=1")
        assert (status, body[:2]) == (200, b"\x1f\x8b")
        status, body = ask(listener, "GET", f"{HEAP_PATH}?seconds=1&format=speedscope")
        assert (status, json.loads(body)["exporter"]) == (200, "codeq")


def test_listener_shows_and_changes_the_level_of_the_log() -> None:
    level = Level()
    with listening(level) as listener:
        assert ask(listener, "GET", LEVEL_PATH) == (200, b"info\n")
        assert ask(listener, "PUT", LEVEL_PATH, b"debug\n") == (200, b"debug\n")
        assert level.level == "debug"
        assert ask(listener, "PUT", LEVEL_PATH, b"loud")[0] == 400
        assert ask(listener, "PUT", LEVEL_PATH, b"x" * 100)[0] == 413
        assert level.level == "debug"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/nowhere", 404),
        ("PUT", CPU_PATH, 405),
        ("POST", CPU_PATH, 501),
        ("GET", f"{CPU_PATH}?seconds=0", 400),
        ("GET", f"{CPU_PATH}?seconds=301", 400),
        ("GET", f"{CPU_PATH}?seconds=0003000000", 400),
        ("GET", f"{CPU_PATH}?seconds=1&format=svg", 400),
    ],
)
def test_listener_refuses_other_requests(method: str, path: str, status: int) -> None:
    with listening(Level()) as listener:
        assert ask(listener, method, path)[0] == status


@pytest.mark.parametrize("host", ["evil.example", "evil.example:6060", "", "10.0.0.1"])
def test_listener_refuses_other_host_names(host: str) -> None:
    with listening(Level()) as listener:
        assert ask(listener, "GET", "/", host=host)[0] == 403
        for name in ("localhost:6060", "127.0.0.1", "[::1]:6060"):
            assert ask(listener, "GET", "/", host=name)[0] == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_listener_refuses_requests_of_web_pages(headers: dict[str, str]) -> None:
    with listening(Level()) as listener:
        assert ask(listener, "GET", "/", **headers)[0] == 403
        assert ask(listener, "GET", "/", **{"Sec-Fetch-Site": "none"})[0] == 200


def test_listener_makes_one_profile_at_a_time_and_stops_at_once() -> None:
    listener = DebugListener("127.0.0.1", 0, lambda: "info", lambda _: None)
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(ask(listener, "GET", f"{CPU_PATH}?seconds=300")[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    while not replies:
        threads[0].join(0.01)
    assert replies == [429]
    listener.stop()
    for thread in threads:
        thread.join(10)
    assert replies == [429, 200]


def opened(listener: DebugListener, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", listener.port), timeout=30)
    connection.sendall(sent)
    return connection


def ask_until(listener: DebugListener, path: str, status: int) -> None:
    """Asks again and again until the status comes; refused connections count as another one."""
    while True:
        with suppress(OSError, http.client.HTTPException):
            if ask(listener, "GET", path)[0] == status:
                return


@pytest.mark.parametrize("path", [CPU_PATH, HEAP_PATH])
def test_profile_ends_when_its_client_leaves(path: str) -> None:
    with listening(Level()) as listener:
        request = f"GET {path}?seconds=300 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        while True:
            with opened(listener, request):
                if ask(listener, "GET", f"{path}?seconds=1")[0] == 429:
                    break  # otherwise, this request came first
        ask_until(listener, f"{path}?seconds=1", 200)


def test_slow_clients_hold_the_connections_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codeq_server.profiling.listener, "REQUEST_SECONDS", 0.5)
    with listening(Level()) as listener, ExitStack() as stack:
        slow = [stack.enter_context(opened(listener, b"GET / HTTP/1.1\r\n")) for _ in range(CONNECTIONS_MAX)]
        are_served = threading.Event()

        def drip() -> None:
            while not are_served.wait(0.05):
                for client in slow:
                    with suppress(OSError):
                        client.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            ask_until(listener, "/", 200)
        finally:
            are_served.set()
            thread.join()
