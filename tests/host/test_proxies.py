"""Debian's proxies in front of REST and gRPC, and the JDK's client with its defaults."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import codeq
import grpc
import pytest
from codeq.v1 import task_service_pb2
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from documented import ENVIRONMENT, TOKEN
from grpc_health.v1 import health_pb2, health_pb2_grpc
from host_tools import need
from proxies import Proxy, haproxy, health_checks, nginx
from rest_walk import Send, Step, Walk
from server_process import ServerProcess
from stock_clients import JDK, curl, program, python_requests
from walk_senders import UPGRADES, sender

pytestmark = [pytest.mark.host, pytest.mark.xdist_group("proxies")]  # which share the server

NUMBERS = itertools.count(1)
CHECK_SECONDS_MAX = 30.0
WAYS = [("nginx", "bare"), ("nginx", "kept"), ("nginx", "upgrading"), ("haproxy", "bare"), ("haproxy", "named")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the documented tokens, which accepts any host name."""
    env = {name: value for name, value in ENVIRONMENT.items() if name != "PERSISTENCE_CONFIG"}
    with ServerProcess(tmp_path_factory.mktemp("server"), env=env, dev=False) as started:
        yield started


@pytest.fixture(scope="module")
def proxies(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """Both proxies in front of the server."""
    need("nginx", "haproxy")
    folder = tmp_path_factory.mktemp("proxies")
    with nginx(folder / "nginx", server) as first, haproxy(folder / "haproxy", server) as second:
        yield {"nginx": first, "haproxy": second}


@pytest.fixture(scope="module")
def direct(server: ServerProcess) -> list[Step]:
    """A walk without a proxy."""
    return walk(sender(server.http_url))


def walk(send: Send) -> list[Step]:
    """Returns the steps of a new walk."""
    return Walk(send, f"walk{next(NUMBERS)}").run()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("lines", [b"", UPGRADES["curl --http2"]], ids=["plain", "upgrade"])
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_proxy_does_not_change_any_reply(
    proxies: dict[str, Proxy], direct: list[Step], name: str, way: str, lines: bytes, chunked: bool
) -> None:
    assert walk(sender(proxies[name].rest[way], lines, chunked=chunked)) == direct


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_stock_clients_work_through_a_proxy(proxies: dict[str, Proxy], direct: list[Step], name: str, way: str) -> None:
    url = proxies[name].rest[way]
    for client in (curl(url, "--http2"), python_requests(url)):
        with client as send:
            assert walk(send) == direct


def test_proxy_health_checks_by_head_succeed(proxies: dict[str, Proxy]) -> None:
    found = dict.fromkeys(("rest", "named"), ("L7OK", "UP")) | {"grpc": ("L4OK", "UP")}
    give_up = time.monotonic() + CHECK_SECONDS_MAX
    while health_checks(proxies["haproxy"]) != found:
        assert time.monotonic() < give_up, health_checks(proxies["haproxy"])
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_grpc_works_through_a_proxy(proxies: dict[str, Proxy], name: str) -> None:
    address = proxies[name].grpc
    token = (("authorization", f"Bearer {TOKEN}"),)
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = TaskServiceStub(channel)
        with codeq.Producer(address, token=TOKEN) as producer:
            made = producer.create(f"grpc-{name}", {"n": 1})
        claim = task_service_pb2.ClaimTaskRequest(commands=[f"grpc-{name}"])
        task = stub.ClaimTask(claim, metadata=token, timeout=30).task
        assert task.id == made
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetTask(task_service_pb2.GetTaskRequest(task_id="none"), metadata=token, timeout=30)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as unknown:
            stub.GetTask(task_service_pb2.GetTaskRequest(task_id=task.id), timeout=30)
        assert unknown.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_jdk_client_calls_every_route(server: ServerProcess, direct: list[Step]) -> None:
    need("javac")
    with program(server.http_url, JDK) as send:
        assert walk(send) == direct
