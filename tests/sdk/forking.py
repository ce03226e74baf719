"""A process with clients in a given state. It forks children, and then continues, closes its clients or exits.

Usage: forking.py DIRECTORY PRODUCER_ADDRESS WORKER_ADDRESS TOKEN STATE WAY THEN CHILDREN

Each child leaves child-N.json in the directory, and the parent leaves parent.json. Children begin once the file "go"
exists.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import codeq

TIMEOUT_SECONDS = 10.0
GATE_SECONDS_MAX = 60.0
POLL_SECONDS = 0.01
LEASE_SECONDS = 3


@dataclass(frozen=True)
class Place:
    """Where children work."""

    directory: str
    producer: str
    worker: str
    token: str


def main(arguments: list[str]) -> None:
    place = Place(*arguments[:4])
    if arguments[4] == "child":
        child(place, int(arguments[5]))
        return
    state, way, then, children = arguments[4], arguments[5], arguments[6], int(arguments[7])
    parent = Parent(place, state)
    started = [start(way, place, number, parent) for number in range(children)]
    if then == "closes":
        parent.close()
    if then == "exits":
        os._exit(0)
    print("ready", flush=True)
    for wait in started:
        wait()
    parent.end(closed=then == "closes")


class Parent:
    """The parent's clients and their results."""

    def __init__(self, place: Place, state: str) -> None:
        self.state = state
        self.failures: list[str] = []
        self.slowest = 0.0
        self._enough = threading.Event()
        self._threads: list[threading.Thread] = []
        self.objects: list[Any] = []
        if state == "none":
            return
        address, options = place.producer, {"token": place.token, "timeout_seconds": TIMEOUT_SECONDS}
        self.producer, self.client = codeq.Producer(address, **options), codeq.Client(address, **options)  # type: ignore[arg-type]
        self.worker = codeq.Worker(place.worker, token=place.token, lease_seconds=LEASE_SECONDS, concurrency=4)
        self.objects = [self.producer, self.client, self.worker]
        if state == "unused":
            return
        self.create()
        if state == "closed":
            self.close()
            return
        command = f"parent-{os.getpid()}"
        working = threading.Event()

        def handle(task: codeq.Task) -> None:
            working.set()
            self._enough.wait(GATE_SECONDS_MAX)

        self.client.create(command)
        self._run(lambda: self.worker.run(handle, commands=[command]))
        assert working.wait(GATE_SECONDS_MAX)
        if state == "busy":
            for _ in range(2):
                self._run(self._create_on)

    def create(self) -> None:
        """Creates a task with both clients."""
        for client in (self.producer, self.client):
            begin = time.monotonic()
            try:
                client.create("of-the-parent", {"pid": os.getpid()})
            except codeq.CodeqError as error:
                self.failures.append(repr(error))
            self.slowest = max(self.slowest, time.monotonic() - begin)

    def close(self) -> None:
        """Ends everything."""
        self._enough.set()
        if self.objects:
            self.worker.stop()
            for thread in self._threads:
                thread.join(GATE_SECONDS_MAX)
            self.producer.close()
            self.client.close()

    def end(self, *, closed: bool) -> None:
        """Checks that the clients still work and reports their state."""
        lost = 0
        if self.objects:
            if not closed and self.state != "closed":
                self.create()
            self.close()
            lost = self.worker.stats.lost + self.worker.stats.refused
        told = {"failures": self.failures, "slowest": self.slowest, "lost": lost}
        Path("parent.json").write_text(json.dumps(told))

    def _create_on(self) -> None:
        while not self._enough.is_set():
            self.create()

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        thread.daemon = True
        thread.start()
        self._threads.append(thread)


def start(way: str, place: Place, number: int, parent: Parent) -> Callable[[], object]:
    """Starts a child; returns a function that waits for its end."""
    objects = parent.objects if parent.state == "inherited" else []
    if way == "os.fork":
        if pid := os.fork():
            return lambda: os.waitpid(pid, 0)
        status = 1
        try:
            child(place, number, objects)
            status = 0
        finally:
            os._exit(status)
    if way == "os.fork, exit":  # the child's interpreter shuts down, with everything that the child inherited
        if pid := os.fork():
            return lambda: os.waitpid(pid, 0)
        child(place, number, objects)
        sys.exit(0)
    if way == "preexec_fn":
        command = [sys.executable, __file__, *asdict(place).values(), "child", str(number)]
        return subprocess.Popen(command, preexec_fn=os.setsid).wait  # noqa: PLW1509 - what is tried here
    context: Any = multiprocessing.get_context(way)
    process = context.Process(target=child, args=(place, number, objects))
    process.start()
    return process.join  # type: ignore[no-any-return]


def child(place: Place, number: int, inherited: list[Any] | None = None) -> None:
    """Works with new clients, or with the parent's clients."""
    deadline = time.monotonic() + GATE_SECONDS_MAX
    while not (Path(place.directory) / "go").exists():
        assert time.monotonic() < deadline, "nobody opened the gate"
        time.sleep(POLL_SECONDS)
    told: dict[str, object] = {}
    begin = time.monotonic()
    try:
        told["done"] = use(inherited) if inherited else work(place, number)
    except BaseException as error:  # noqa: BLE001 - told to the test
        told["error"] = repr(error)
    told["seconds"] = time.monotonic() - begin
    path = Path(place.directory) / f"child-{number}.new"
    path.write_text(json.dumps(told))
    path.rename(path.with_suffix(".json"))


def work(place: Place, number: int) -> list[str]:
    """Creates and completes a task with new clients of every kind."""
    command = f"child-{Path(place.directory).name}-{number}"[-100:]
    options: dict[str, Any] = {"token": place.token, "timeout_seconds": TIMEOUT_SECONDS}

    async def create() -> None:
        async with codeq.AsyncProducer(place.producer, **options) as producer:
            await producer.create(command, 3)
        async with codeq.AsyncClient(place.producer, **options) as client:
            await client.create(command, 4)

    done: list[object] = []
    worker = codeq.Worker(place.worker, token=place.token)

    @worker.task(command)
    def handle(task: codeq.Task) -> None:
        done.append(task.payload)
        if len(done) == 4:
            worker.stop()

    with codeq.Client(place.producer, **options) as client, codeq.Producer(place.producer, **options) as producer:
        client.create(command, 1)
        producer.create(command, 2)
        asyncio.run(create())
        worker.run()
    return sorted(str(each) for each in done)


def use(inherited: list[Any]) -> list[str]:
    """Returns the error of every operation on the parent's objects."""
    producer, client, worker = inherited
    told = []
    for call in (
        lambda: producer.create("X"),
        lambda: producer.create_batch([codeq.NewTask("X")]),
        lambda: client.create("X"),
        client.queues,
        lambda: worker.run(lambda _: None),
        worker.stop,
    ):
        try:
            call()
            told.append("no error")
        except Exception as error:  # noqa: BLE001 - told to the test
            told.append(type(error).__name__)
    producer.close()
    client.close()
    return told


if __name__ == "__main__":
    main(sys.argv[1:])
