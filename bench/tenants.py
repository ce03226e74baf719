"""Measures many tenants: the memory of each, and the time to start with them.

    bench/tenants.py                       100,000 tenants with a queue and a waiting task each
    bench/tenants.py --tenants 10000

The server's tokens are in a file, which is replaced for every 10,000 tenants. After all tasks are created, the server
is killed and started again. Prints one JSON line:

    rss_empty_mb          resident memory before the first task; rss_mb: after the last one
    rss_restarted_mb      after the restart
    bytes_per_tenant      what rss_restarted_mb is above rss_empty_mb, per tenant; rss_mb also has the store's write
                          buffers, and the heads of queues
    start_seconds         time to ready after the kill, including the replay of the store's log; start_cpu_seconds: CPU
                          time until then, which other programs on the machine do not change
    list_ms               longest call that lists a page of 500 tenants, of the calls that list them all

--save appends the line to bench/results/tenants.jsonl. Exit code 1: a figure exceeds its aim.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import grpc
from codeq.v1 import task_pb2, tenant_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from codeq.v1.tenant_service_pb2_grpc import TenantServiceStub
from measured_server import BenchError, MeasuredServer
from run import BUILD, describe_commit, describe_machine, tell

FILE_TOKENS: Final = 10_000
OPERATOR: Final = "operator"
IN_FLIGHT: Final = 64
ACCEPTED_SECONDS_MAX: Final = 30.0
PAYLOAD: Final = b'"' + b"x" * 100 + b'"'
GROWTH_MB_MAX: Final = 300.0
"""Aim: memory of 100,000 tenants above that of an empty server."""
START_SECONDS_MAX: Final = 5.0
"""Aim: start with 100,000 tenants."""


def write_tokens(path: Path, tenants: range) -> None:
    """Makes the server accept a token of each of these tenants, and the operator's."""
    tokens = [{"token": f"t{n}", "subject": f"t{n}", "raw": {"tenantId": f"t{n}"}} for n in tenants]
    tokens.append({"token": OPERATOR, "subject": OPERATOR, "scopes": ["codeq:operator"], "raw": {"tenantId": OPERATOR}})
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(tokens))
    draft.replace(path)


def auth(token: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


async def create_all(address: str, tokens: Path, count: int) -> None:
    """Creates a task of each tenant."""
    spec = task_pb2.TaskSpec(command="mail", payload=PAYLOAD)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = TaskServiceStub(channel)
        for first in range(0, count, FILE_TOKENS - 1):
            tenants = range(first, min(count, first + FILE_TOKENS - 1))
            write_tokens(tokens, tenants)
            await _accepted(stub, f"t{tenants[-1]}")
            waiting = iter(tenants)

            async def create(numbers: object = waiting) -> None:
                for number in numbers:  # type: ignore[attr-defined]
                    await stub.CreateTask(pb.CreateTaskRequest(spec=spec), metadata=auth(f"t{number}"))

            await asyncio.gather(*(create() for _ in range(IN_FLIGHT)))


async def _accepted(stub: Any, token: str) -> None:
    """Waits until the server has read the tokens."""
    deadline = time.monotonic() + ACCEPTED_SECONDS_MAX
    while True:
        try:
            await stub.ListTasks(pb.ListTasksRequest(), metadata=auth(token))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def list_all(address: str) -> tuple[int, float]:
    """Lists all tenants; returns their number, and the longest call in milliseconds."""
    found, longest, token = 0, 0.0, ""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = TenantServiceStub(channel)
        while True:
            began = time.perf_counter()
            request = tenant_service_pb2.ListTenantsRequest(page_size=500, page_token=token)
            page = await stub.ListTenants(request, metadata=auth(OPERATOR))
            longest = max(longest, (time.perf_counter() - began) * 1000)
            found += len(page.tenants)
            token = page.next_page_token
            if not token:
                return found, longest


def measure(directory: Path, count: int) -> dict[str, object]:
    """Returns the figures.

    Raises:
        BenchError: The server forgot tenants.
    """
    tokens = directory / "tokens.json"
    write_tokens(tokens, range(FILE_TOKENS - 1))
    config = json.dumps({"file": str(tokens)})
    files = {"PRODUCER_AUTH_CONFIG": config}
    with MeasuredServer(directory, more=files | {"GATEWAY_SECRET": "0123456789abcdef"}) as server:
        empty = server.rss_mb()
        asyncio.run(create_all(server.producer, tokens, count))
        full = server.rss_mb()
        listed, longest = asyncio.run(list_all(server.producer))
        server.kill()
        began = time.monotonic()
        with server:
            seconds, cpu = time.monotonic() - began, server.read().cpu_seconds
            restarted = server.rss_mb()
            again, _ = asyncio.run(list_all(server.producer))
    if listed != count or again != count:
        raise BenchError(f"{count} tenants have a task, {listed} were listed, and {again} after the restart")
    return {
        "bench": "tenants",
        "tenants": count,
        "rss_empty_mb": round(empty, 1),
        "rss_mb": round(full, 1),
        "rss_restarted_mb": round(restarted, 1),
        "bytes_per_tenant": round((restarted - empty) * 1e6 / count),
        "start_seconds": round(seconds, 2),
        "start_cpu_seconds": round(cpu, 2),
        "list_ms": round(longest, 1),
        "commit": describe_commit(),
        "machine": describe_machine(BUILD),
    }


def main(arguments: list[str]) -> int:
    """Runs the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures many tenants; prints one JSON line.")
    parser.add_argument("--tenants", type=int, default=100_000, help="tenants (default 100000)")
    parser.add_argument("--save", action="store_true", help="append the result to bench/results")
    options = parser.parse_args(arguments)
    BUILD.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=BUILD) as directory:
            result = measure(Path(directory), options.tenants)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    tell("tenants", result, save=options.save)
    grown = float(str(result["rss_restarted_mb"])) - float(str(result["rss_empty_mb"]))
    return int(grown > GROWTH_MB_MAX or float(str(result["start_seconds"])) > START_SECONDS_MAX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
