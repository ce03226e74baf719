"""The first messages of streams: the versions in welcomes, the rules for the client's SDK, and the log event."""

from __future__ import annotations

import json
import time
from typing import Any

import codeq
import grpc
import httpx
import pytest
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq.v1.producer_service_pb2_grpc import ProducerServiceStub
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from server_process import DEV_TOKEN, ServerProcess

METADATA = (("authorization", f"Bearer {DEV_TOKEN}"),)
SECONDS_MAX = 30.0


async def first_answer(server: ServerProcess, kind: str, client: producer_pb.ClientInfo, **hello: Any) -> Any:
    """Opens a stream and returns the server's first message."""
    address = server.producer_addr if kind == "Produce" else server.worker_addr
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any
        request: producer_pb.ProduceRequest | worker_pb.WorkRequest
        if kind == "Produce":
            stream = ProducerServiceStub(channel).Produce(metadata=METADATA, timeout=SECONDS_MAX)
            request = producer_pb.ProduceRequest(hello=producer_pb.ProducerHello(client=client, **hello))
        else:
            stream = WorkerServiceStub(channel).Work(metadata=METADATA, timeout=SECONDS_MAX)
            request = worker_pb.WorkRequest(hello=worker_pb.WorkerHello(client=client, **hello))
        await stream.write(request)
        answer = await stream.read()
        await stream.done_writing()
        return answer


def opened(server: ServerProcess, count: int) -> list[dict[str, Any]]:
    """Waits for a number of `stream_opened` lines and returns them."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        lines = [json.loads(line) for line in server.log.splitlines() if '"stream_opened"' in line]
        if len(lines) >= count:
            assert len(lines) == count
            return lines
        assert time.monotonic() < deadline, server.log[-3000:]
        time.sleep(0.05)


async def test_welcomes_name_the_servers_version_and_its_protocol(server: ServerProcess) -> None:
    authorization = {"Authorization": f"Bearer {DEV_TOKEN}"}
    async with httpx.AsyncClient(headers=authorization, timeout=SECONDS_MAX) as http:
        told = (await http.get(f"{server.http_url}/v1/codeq/server")).json()
    for kind in ("Produce", "Work"):
        welcome = (await first_answer(server, kind, producer_pb.ClientInfo())).welcome
        assert (welcome.server_version, welcome.protocol) == (told["version"], 1)
        assert welcome.server_version


@pytest.mark.parametrize("kind", ["Produce", "Work"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("sdk", "s" * 65), ("sdk", "my sdk"), ("sdk", "ü"), ("version", "1" * 65), ("version", "1.0\n")],
)
async def test_malformed_name_of_an_sdk_is_rejected_by_its_field(
    server: ServerProcess, kind: str, field: str, value: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await first_answer(server, kind, producer_pb.ClientInfo(**{field: value}))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refused.value.details()).startswith(f"client.{field}: ")


async def test_names_at_their_limits_and_any_protocol_are_accepted(server: ServerProcess) -> None:
    client = producer_pb.ClientInfo(sdk="a-Z_9." * 10 + "last", version="1.0.0-rc.1+b" + "9" * 52, protocol=2**32 - 1)
    for kind in ("Produce", "Work"):
        assert (await first_answer(server, kind, client)).welcome.protocol == 1
    lines = opened(server, 2)
    assert {(line["sdk"], line["version"], line["protocol"]) for line in lines} == {
        (client.sdk, client.version, 2**32 - 1)
    }


async def test_log_names_client_and_sdk_of_each_opened_stream(server: ServerProcess) -> None:
    async with codeq.AsyncProducer(server.producer_addr, token=DEV_TOKEN, client_name="shop\n2") as producer:
        await producer.create("A", 1)
    worker = codeq.AsyncWorker(server.worker_addr, token=DEV_TOKEN, name="w1")

    async def handle(_: codeq.Task) -> None:
        worker.stop()

    await worker.run(handle, commands=["A"])
    await first_answer(server, "Work", producer_pb.ClientInfo(), commands=["B"])
    fields = ("call", "tenant", "name", "sdk", "version", "protocol")
    by_sdk, by_worker, bare = (tuple(line[field] for field in fields) for line in opened(server, 3))
    assert by_sdk == ("Produce", "dev-tenant", "shop\n2", "codeq-python", codeq.__version__, 1)
    assert by_worker == ("Work", "dev-tenant", "w1", "codeq-python", codeq.__version__, 1)
    assert bare == ("Work", "dev-tenant", "", "", "", 0)
    assert all(line["origin"].startswith("127.0.0.1:") for line in opened(server, 3))
