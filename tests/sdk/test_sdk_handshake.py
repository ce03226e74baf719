"""The SDK's name in hellos, and the warning about servers with an older protocol."""

from __future__ import annotations

import asyncio
import sys

import codeq
from codeq.v1 import producer_service_pb2 as producer_pb
from scripted_server import Produce, ScriptedServer, Work, ack, answer, delivery, welcome_producer, welcome_worker

SECONDS_MAX = 60
SELF = producer_pb.ClientInfo(sdk="codeq-python", version=codeq.__version__, protocol=1)

PROGRAM = """
import codeq, logging, sys
logging.basicConfig(format="%(name)s|%(levelname)s|%(message)s")
for _ in range(2):
    with codeq.Producer(sys.argv[1]) as producer:
        producer.create("X", 1)
worker = codeq.Worker(sys.argv[1])
worker.run(lambda task: worker.stop(), handle_signals=False)
"""
"""Opens two producer streams and then a worker stream."""


async def test_hellos_name_sdk_version_and_protocol() -> None:
    async def produce(stream: Produce) -> None:
        await welcome_producer(stream)
        assert stream.requests[0].hello.client == SELF
        await stream.write(ack(await stream.read()))
        await stream.read_end()

    async def work(stream: Work) -> None:
        hello = await welcome_worker(stream)
        assert hello.client == SELF
        worker.stop()
        await answer(stream)

    async with ScriptedServer(produce, work) as server:
        async with codeq.AsyncProducer(server.address) as producer:
            await producer.create("X", "1")
        worker = codeq.AsyncWorker(server.address)
        await asyncio.wait_for(worker.run(lambda _: None, handle_signals=False), SECONDS_MAX)
        assert server.streams == 2


async def warnings_with(protocol: int) -> list[str]:
    """Runs PROGRAM against a server that speaks this version of the protocol; returns the lines of its log."""

    async def produce(stream: Produce) -> None:
        await welcome_producer(stream, protocol=protocol)
        async for frame in stream:
            await stream.write(ack(frame))

    async def work(stream: Work) -> None:
        await welcome_worker(stream, protocol=protocol)
        await stream.write(delivery("a"))
        await answer(stream)

    async with ScriptedServer(produce, produce, work) as server:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, server.address, stderr=asyncio.subprocess.PIPE
        )
        _, told = await asyncio.wait_for(program.communicate(), SECONDS_MAX)
        assert (program.returncode, server.streams) == (0, 3), told.decode()
    return told.decode().splitlines()


async def test_older_protocol_of_a_server_is_warned_of_once_in_a_process() -> None:
    [line] = await warnings_with(0)
    assert line.startswith("codeq|WARNING|the server (version unknown) speaks version 0 of the stream protocol")
    assert f"codeq-python {codeq.__version__} needs version 1" in line


async def test_current_and_newer_protocols_of_a_server_give_no_warning() -> None:
    assert await warnings_with(1) == []
    assert await warnings_with(2) == []
