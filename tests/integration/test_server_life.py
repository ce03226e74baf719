"""The life of a server process: failed starts with one line each, readiness, health, kills, and graceful stops."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import producer_service_pb2_grpc, task_pb2, worker_service_pb2_grpc
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.rocks import RocksStore
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess

GRACE_SECONDS = 10.0
SPARE_SECONDS = 5.0
"""Time that a busy machine may add to a stop."""

AUTHORIZATION = f"Bearer {DEV_TOKEN}"
METADATA = (("authorization", AUTHORIZATION),)


def failed_start(server: ServerProcess) -> tuple[int, list[str]]:
    """Starts a server that must fail to start; returns its exit code and output."""
    try:
        return server.spawn().wait(), server.log.splitlines()
    finally:
        server.close()


def until(condition: Callable[[], bool], seconds: float = 20.0, poll_seconds: float = 0.02) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(poll_seconds)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http_url, headers={"Authorization": AUTHORIZATION}, timeout=40) as made:
        yield made


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.worker_addr) as made:
        yield made


def create(client: httpx.Client, **task: Any) -> dict[str, Any]:
    reply = client.post("/v1/codeq/tasks", json={"command": "PRINT", "payload": {"n": 1}, **task})
    assert reply.status_code == 202, reply.text
    made = reply.json()
    assert isinstance(made, dict)
    return made


# -- starts ------------------------------------------------------------------------------------------------------------


def test_server_writes_addresses_and_pid_to_the_ready_file(server: ServerProcess) -> None:
    assert server.ready == {
        "http": server.http_url.removeprefix("http://"),
        "worker": server.worker_addr,
        "producer": server.producer_addr,
        "pid": server.pid,
    }


@pytest.mark.parametrize("index", [0, 1, 2], ids=["http", "worker", "producer"])
def test_startup_error_names_the_port_in_use(tmp_path: Path, index: int) -> None:
    server = ServerProcess(tmp_path)
    address = (server.http_url.removeprefix("http://"), server.worker_addr, server.producer_addr)[index]
    port = int(address.rpartition(":")[2])
    with socket.create_server((LOOPBACK, port)):
        code, lines = failed_start(server)
    assert code == 1
    assert len(lines) == 1
    assert str(port) in lines[0]


def test_startup_error_names_all_ports_in_use_and_leaves_no_files(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    taken = [int(each.rpartition(":")[2]) for each in (server.http_url, server.producer_addr)]
    with socket.create_server((LOOPBACK, taken[0])), socket.create_server((LOOPBACK, taken[1])):
        code, [line] = failed_start(server)
    assert code == 1
    assert re.search(rf":{taken[0]} \(PORT: Address already in use\), .*:{taken[1]} \(PRODUCER_STREAM_ADDR: ", line)
    assert not server.store.exists()


@pytest.mark.parametrize("is_doubled", [False, True], ids=["taken", "doubled"])
def test_startup_error_names_the_debug_port_and_leaves_no_files(tmp_path: Path, is_doubled: bool) -> None:
    server = ServerProcess(tmp_path)
    with socket.create_server((LOOPBACK, 0)) as held:
        debug = server.worker_addr if is_doubled else f"{LOOPBACK}:{held.getsockname()[1]}"
        server.env |= {"CODEQ_PPROF": "true", "CODEQ_PPROF_ADDR": debug}
        code, [line] = failed_start(server)
    why = "WORKER_STREAM_ADDR has the same port" if is_doubled else "Address already in use"
    assert (code, f"{debug} (CODEQ_PPROF_ADDR: {why})" in line) == (1, True), line
    assert not server.store.exists()


def test_startup_error_names_the_store_of_a_running_server(server: ServerProcess, tmp_path: Path) -> None:
    code, lines = failed_start(ServerProcess(tmp_path / "second", store=server.store))
    assert code == 1
    assert len(lines) == 1
    assert str(server.store) in lines[0]
    assert httpx.get(f"{server.http_url}/readyz").status_code == 200


def test_startup_error_names_the_unwritable_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = tmp_path / "file" / "store"
    code, lines = failed_start(ServerProcess(tmp_path / "server", store=store))
    assert code == 1
    assert len(lines) == 1
    assert str(store) in lines[0]


def test_store_of_a_newer_format_prevents_startup_and_stays_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "store"
    newer = rows_pb2.IdentityRow(
        format=keys.FORMAT + 1, num_shards=1, cluster_id=b"x" * 16, epoch=7
    ).SerializeToString()
    store = RocksStore(path, fsync=False)
    store.write({keys.IDENTITY: newer})
    store.close()
    code, lines = failed_start(ServerProcess(tmp_path / "server", store=path))
    assert code == 1
    assert len(lines) == 1
    store = RocksStore(path, fsync=False)
    assert store.get(keys.IDENTITY) == newer
    store.close()


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"CODEQ_STORE": "/data"}, "CODEQ_STORE"),
        ({"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a b"}, "RAFT_SELF_ID"),
        ({"PERSISTENCE_CONFIG": '{"pth":"/data"}'}, "PERSISTENCE_CONFIG.pth"),
        ({}, "PRODUCER_AUTH_PROVIDER"),
    ],
)
def test_configuration_error_is_one_line_that_names_the_key(tmp_path: Path, env: dict[str, str], named: str) -> None:
    code, lines = failed_start(ServerProcess(tmp_path, env=env, dev=bool(env)))
    assert code == 2
    assert len(lines) == 1
    assert named in lines[0]


# -- service -----------------------------------------------------------------------------------------------------------


def test_health_check_reports_server_and_services_as_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "codeq.v1.TaskService", "codeq.v1.WorkerService", "codeq.v1.ProducerService"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_every_service(channel: grpc.Channel) -> None:
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    [reply] = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]), timeout=10)
    names = {service.name for service in reply.list_services_response.service}
    assert {f"codeq.v1.{name}Service" for name in ("Task", "Queue", "Server", "Worker", "Producer")} <= names
    assert "grpc.health.v1.Health" in names


def test_request_for_a_foreign_host_name_is_rejected_in_dev_mode(client: httpx.Client) -> None:
    assert client.get("/v1/codeq/tasks/x", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/v1/codeq/tasks/x", headers={"Host": "localhost:1"}).status_code == 404


def test_oversized_message_is_rejected_and_other_calls_continue(server: ServerProcess, client: httpx.Client) -> None:
    spec = task_pb2.TaskSpec(command="PRINT", payload=b'"' + b"x" * (10 << 20) + b'"')
    frame = producer_pb.ProduceRequest(hello=producer_pb.ProducerHello(), tasks=[spec])
    with grpc.insecure_channel(server.producer_addr) as channel:
        call = producer_service_pb2_grpc.ProducerServiceStub(channel).Produce(
            iter([frame]), metadata=METADATA, timeout=10
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    create(client)


SILENT_WORKER = """
import sys, time
import grpc
from codeq.v1 import worker_service_pb2 as pb, worker_service_pb2_grpc
def sent():
    yield pb.WorkRequest(hello=pb.WorkerHello(), add_credits=1)
    time.sleep(600)
stub = worker_service_pb2_grpc.WorkerServiceStub(grpc.insecure_channel(sys.argv[1]))
list(stub.Work(sent(), metadata=(("authorization", sys.argv[2]),)))
"""


@pytest.mark.timeout(120)
def test_stream_of_a_silent_peer_is_closed(server: ServerProcess) -> None:
    """Half-open streams are closed: a suspended client process answers no ping."""

    def streams_open() -> int:
        shown = httpx.get(f"{server.http_url}/metrics").text
        return next(
            int(float(line.split()[1])) for line in shown.splitlines() if line.startswith("codeq_streams_open ")
        )

    with subprocess.Popen([sys.executable, "-c", SILENT_WORKER, server.worker_addr, AUTHORIZATION]) as worker:
        try:
            until(lambda: streams_open() == 1)
            worker.send_signal(signal.SIGSTOP)
            until(lambda: streams_open() == 0, seconds=60, poll_seconds=0.5)
        finally:
            worker.kill()


@pytest.mark.parametrize(
    ("env", "fsync"),
    [
        ({}, True),
        ({"PERSISTENCE_CONFIG": '{"fsyncOnCommit":false}'}, False),
        ({"PERSISTENCE_PROVIDER": "memory"}, False),
    ],
    ids=["fsync", "no fsync", "memory"],
)
def test_readiness_shows_whether_acknowledged_tasks_are_durable(
    tmp_path: Path, env: dict[str, str], fsync: bool
) -> None:
    with ServerProcess(tmp_path, env=env) as server:
        assert httpx.get(f"{server.http_url}/readyz").json()["fsync"] is fsync
        assert server.stop() == 0


def test_server_without_streams_serves_rest_only(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, flags=["--worker-stream-addr", "", "--producer-stream-addr", ""]) as server:
        assert (server.ready["worker"], server.ready["producer"]) == (None, None)
        assert httpx.get(f"{server.http_url}/readyz").status_code == 200
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((LOOPBACK, int(server.worker_addr.rpartition(":")[2])))


# -- kills and stops ---------------------------------------------------------------------------------------------------


def test_acknowledged_task_survives_a_kill_and_a_restart(server: ServerProcess, client: httpx.Client) -> None:
    task = create(client)
    before = server.pid
    server.kill()
    server.restart()
    assert server.pid != before
    reply = client.get(f"/v1/codeq/tasks/{task['id']}")
    assert reply.json()["payload"] == {"n": 1}
    assert reply.json()["status"] == "PENDING"


def test_memory_provider_loses_its_tasks_when_the_process_ends(tmp_path: Path) -> None:
    headers = {"Authorization": AUTHORIZATION}
    with ServerProcess(tmp_path, env={"PERSISTENCE_PROVIDER": "memory"}) as server:
        with httpx.Client(base_url=server.http_url, headers=headers) as client:
            task = create(client)
        server.restart()
        assert httpx.get(f"{server.http_url}/v1/codeq/tasks/{task['id']}", headers=headers).status_code == 404


def test_failed_commit_leaves_the_outcome_unknown_and_ends_the_process(
    server: ServerProcess, client: httpx.Client
) -> None:
    """Nothing is acknowledged unless it was written. A file size limit keeps the store's files from growing."""
    acknowledged = [create(client)["id"]]
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for _ in range(20):
        reply = client.post("/v1/codeq/tasks", json={"command": "PRINT", "payload": "x" * (200 << 10)})
        if reply.status_code != 202:
            break
        acknowledged.append(reply.json()["id"])
    assert (reply.status_code, reply.json()["reason"]) == (503, "OUTCOME_UNKNOWN")
    assert server.wait() == 1
    server.start()
    for task_id in acknowledged:
        assert client.get(f"/v1/codeq/tasks/{task_id}").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_stops_on_a_signal_and_removes_its_ready_file(server: ServerProcess, number: int) -> None:
    server.signal(number)
    assert server.wait() == 0
    assert not server.ready_path.exists()


def test_shutdown_answers_a_waiting_claim_and_ends_within_the_grace_period(
    server: ServerProcess, client: httpx.Client
) -> None:
    replies: list[httpx.Response] = []

    def claim() -> None:
        replies.append(client.post("/v1/codeq/tasks/claim", json={"commands": ["NOTHING"], "waitSeconds": 30}))

    waiting = threading.Thread(target=claim)
    waiting.start()
    until(lambda: "codeq_workers_waiting 1.0" in httpx.get(f"{server.http_url}/metrics").text)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < GRACE_SECONDS + SPARE_SECONDS
    waiting.join()
    assert replies[0].status_code in {204, 503}


def test_shutdown_notifies_a_worker_stream_and_accepts_its_outcome(server: ServerProcess, client: httpx.Client) -> None:
    """A worker can still complete a task while the server is stopping: the restarted server has the result."""
    task = create(client)
    requests: list[worker_pb.WorkRequest] = [
        worker_pb.WorkRequest(hello=worker_pb.WorkerHello(commands=["PRINT"]), add_credits=1)
    ]
    more = threading.Condition()

    def sent() -> Iterator[worker_pb.WorkRequest]:
        while True:
            with more:
                more.wait_for(lambda: requests)
                request = requests.pop(0)
            if not request.ByteSize():
                return
            yield request

    def send(request: worker_pb.WorkRequest) -> None:
        with more:
            requests.append(request)
            more.notify()

    settled = 0
    with grpc.insecure_channel(server.worker_addr) as channel:
        call = worker_service_pb2_grpc.WorkerServiceStub(channel).Work(sent(), metadata=METADATA, timeout=30)
        for response in call:
            for delivered in response.tasks:
                assert delivered.id == task["id"]
                server.signal(signal.SIGTERM)
                held = delivered
            if response.HasField("notice"):
                assert 0 < response.notice.grace_ms <= GRACE_SECONDS * 1000
                outcome = task_pb2.Outcome(
                    task_id=held.id,
                    lease_token=held.lease_token,
                    kind=task_pb2.OUTCOME_KIND_COMPLETED,
                    result=b'{"ok":1}',
                )
                send(worker_pb.WorkRequest(outcomes=[outcome]))
                send(worker_pb.WorkRequest())
            settled += response.settled
    assert settled == 1
    assert server.wait() == 0
    server.start()
    assert client.get(f"/v1/codeq/tasks/{task['id']}/result").json()["result"]["result"] == {"ok": 1}


def test_second_signal_ends_the_process_at_once(server: ServerProcess) -> None:
    hello = worker_pb.WorkRequest(hello=worker_pb.WorkerHello())
    silent = threading.Event()

    def sent() -> Iterator[worker_pb.WorkRequest]:
        yield hello
        silent.wait()

    with grpc.insecure_channel(server.worker_addr) as channel:
        call = worker_service_pb2_grpc.WorkerServiceStub(channel).Work(sent(), metadata=METADATA, timeout=30)
        assert next(call).HasField("welcome")
        server.signal(signal.SIGTERM)
        assert next(call).HasField("notice")
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - started < GRACE_SECONDS / 2
        silent.set()
        with pytest.raises(grpc.RpcError):
            next(call)


def test_log_lines_are_json_without_tokens_or_payloads(server: ServerProcess, client: httpx.Client) -> None:
    create(client, payload={"secret": "hush-payload"})
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    assert {"server_started", "http_request_finished", "server_stopped"} <= {line["event"] for line in lines}
    assert "hush-payload" not in server.log
    assert f"Bearer {DEV_TOKEN}" not in "".join(map(json.dumps, lines))


def test_low_open_file_limit_prevents_startup_or_logs_a_warning(tmp_path: Path) -> None:
    limited = ("sh", "-c", 'ulimit -n $0; exec "$@"')
    code, [line] = failed_start(ServerProcess(tmp_path / "refused", prefix=(*limited, "256"), apart=False))
    assert code == 1
    assert re.search(r"RLIMIT_NOFILE.*may open 256 files", line)
    with ServerProcess(tmp_path / "warned", prefix=(*limited, "600"), apart=False) as server:
        assert server.stop() == 0
        assert "few_open_files" in server.log


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_server_with_closed_standard_streams_serves_and_stops(tmp_path: Path, closed: str) -> None:
    with ServerProcess(tmp_path, prefix=("sh", "-c", f'exec "$@" {closed}', "sh"), apart=False) as server:
        answer = httpx.post(
            f"{server.http_url}/v1/codeq/tasks",
            json={"command": "A"},
            headers={"Authorization": AUTHORIZATION},
            timeout=20,
        )
        assert answer.status_code == 202
        assert server.stop() == 0
