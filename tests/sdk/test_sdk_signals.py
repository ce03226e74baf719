"""Signals drain all workers of the process; previous handlers are restored afterwards."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import codeq
import pytest
from scripted_server import ScriptedServer, answer_after_welcome
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually

SECONDS_MAX = 40.0


async def run_until(server: ScriptedServer, streams: int, act: Callable[[], None], **options: bool) -> None:
    """Runs two workers on this loop, acts when both are connected, and waits for their end."""
    workers = [codeq.AsyncWorker(server.address) for _ in range(2)]
    runs = asyncio.gather(*(worker.run(lambda _: None, **options) for worker in workers))
    await eventually(lambda: server.streams == streams)
    act()
    if options.get("handle_signals") is False:
        for worker in workers:
            worker.stop()
    await asyncio.wait_for(runs, SECONDS_MAX)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_signal_drains_every_worker_of_the_loop_and_later_runs_still_work(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    async with ScriptedServer(answer_after_welcome) as server:
        await run_until(server, 2, lambda: signal.raise_signal(number))
        assert {each: signal.getsignal(each) for each in before} == before
        await run_until(server, 4, lambda: signal.raise_signal(number))
    assert {each: signal.getsignal(each) for each in before} == before


async def test_signal_handlers_of_the_program_are_called_during_and_after_the_run() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.add_signal_handler(signal.SIGTERM, seen.append, "loop")
    former = signal.signal(signal.SIGINT, lambda *_: seen.append("python"))
    try:
        async with ScriptedServer(answer_after_welcome) as server:
            await run_until(server, 2, lambda: signal.raise_signal(signal.SIGTERM))
        await eventually(lambda: seen == ["loop"])
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        await eventually(lambda: sorted(seen) == ["loop", "loop", "python"])
    finally:
        signal.signal(signal.SIGINT, former)
        loop.remove_signal_handler(signal.SIGTERM)


async def test_signal_handling_can_be_disabled() -> None:
    seen: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        async with ScriptedServer(answer_after_welcome) as server:
            await run_until(server, 2, lambda: signal.raise_signal(signal.SIGTERM), handle_signals=False)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert seen == [signal.SIGTERM]


async def test_signal_handler_set_during_the_run_is_kept() -> None:
    def mine(*_: object) -> None: ...

    former = signal.getsignal(signal.SIGTERM)
    try:
        async with ScriptedServer(answer_after_welcome) as server:
            worker = codeq.AsyncWorker(server.address)
            run = asyncio.create_task(worker.run(lambda _: None))
            await eventually(lambda: server.streams == 1)
            signal.signal(signal.SIGTERM, mine)
            worker.stop()
            await asyncio.wait_for(run, SECONDS_MAX)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, former)


BUSY = """
import sys, threading
import codeq

class Worker(codeq.{kind}):
    pass

worker = Worker({address!r}, token={token!r}, drain_seconds=25)

@worker.task({command!r})
def handle(task):
    print("started", flush=True)
    threading.Event().wait(60)

{run}
print("ended", worker.stats.lost, flush=True)
"""

RUNS = {
    "Worker": "worker.run()",
    "AsyncWorker": "import asyncio; asyncio.run(worker.run())",
}


@pytest.mark.parametrize("kind", RUNS)
def test_first_interrupt_logs_what_it_waits_for_and_the_second_exits_at_once(
    kind: str, shared_server: ServerProcess, tmp_path: Path
) -> None:
    command = f"busy-{kind}"
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        task = client.create(command)
    code = BUSY.format(kind=kind, address=shared_server.worker_addr, token=DEV_TOKEN, command=command, run=RUNS[kind])
    with (tmp_path / "stderr").open("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=complaints, text=True, cwd=tmp_path
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            told = asyncio.run(_line_of(Path(complaints.name), "draining"))
            assert told == "draining 1 task for up to 25 s; Ctrl-C again to stop now"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=SECONDS_MAX)[0] == "ended 1\n"
        finally:
            process.kill()
            process.wait()
    with codeq.Client(shared_server.producer_addr, token=DEV_TOKEN) as client:
        assert client.get(task.id).status in {"PENDING", "SCHEDULED"}
        client.cancel(task.id)


async def _line_of(path: Path, word: str) -> str:
    lines: list[str] = []

    def found() -> bool:
        lines[:] = [line for line in path.read_text().splitlines() if word in line]
        return bool(lines)

    await eventually(found)
    return lines[0]
