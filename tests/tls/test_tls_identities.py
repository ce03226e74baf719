"""Certificates of clients as identities, over real connections: gRPC, streams, REST, and a gateway apart."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import codeq
import grpc
import httpx
import pytest
from authority import Authority, Files, Pair, replace
from codeq.v1 import producer_service_pb2, task_service_pb2, worker_service_pb2
from codeq_internal.v1 import call_pb2
from cryptography import x509
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from server_process import ServerProcess
from test_tls_clients import run
from tls_clients import QUICK, addresses, shaken, until

pytestmark = pytest.mark.timeout(180)
SECRET = "gateway-secret-1"
LIFE_SECONDS = 12.0
"""Life of certificates that are renewed; streams that end halfway through it count as stable."""
RENEW_SECONDS = 1.0
TOKEN = "static-token"
SHOP = "spiffe://acme.example/shop"
WORKER = "spiffe://acme.example/worker/1"
SCOPES = ["codeq:claim", "codeq:heartbeat", "codeq:result", "codeq:nack", "codeq:abandon"]
GET = "/codeq.v1.TaskService/GetTask"
CREATE = "/codeq.v1.TaskService/CreateTask"
PRODUCERS = {
    "providers": [
        {"type": "static", "config": {"token": TOKEN, "subject": "by-token", "raw": {"tenantId": "zebra"}}},
        {
            "type": "mtls",
            "config": {
                "subject": "san-uri",
                "identities": [{"match": SHOP, "subject": "shop", "tenant": "acme", "roles": ["ADMIN"]}],
            },
        },
    ]
}
WORKERS = {
    "subject": "san-uri",
    "identities": [
        {"match": "spiffe://acme.example/worker/*", "tenantFrom": "o", "scopes": SCOPES, "eventTypes": ["A", "B"]}
    ],
}


class Shown(NamedTuple):
    """The parties: files of the clients, each named like its certificate."""

    authority: Authority
    shop: Files
    worker: Files
    stranger: Files
    foreign: Files


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    authority, folder = Authority(), tmp_path_factory.mktemp("parties")

    def party(name: str, uri: str, by: Authority = authority) -> Files:
        pair = by.sign(name, names=[x509.UniformResourceIdentifier(uri)], organization="acme")
        return authority.files(folder / name, name, pair=pair)

    return Shown(
        authority,
        party("shop", SHOP),
        party("worker", WORKER),
        party("stranger", "spiffe://acme.example/stranger"),
        party("foreign", SHOP, Authority("foreign")),
    )


def environment(authority: Authority, folder: Path, auth: str = "require") -> dict[str, str]:
    files = authority.files(folder / "server-files")
    return files.server_env | {
        "TLS_CLIENT_CA_FILE": str(files.ca),
        "TLS_CLIENT_AUTH": auth,
        "GATEWAY_SECRET": SECRET,
        "PRODUCER_AUTH_PROVIDER": "multi",
        "PRODUCER_AUTH_CONFIG": json.dumps(PRODUCERS),
        "WORKER_AUTH_PROVIDER": "mtls",
        "WORKER_AUTH_CONFIG": json.dumps(WORKERS),
    }


@pytest.fixture(scope="module")
def server(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("identities")
    with ServerProcess(folder / "server", env=environment(shown.authority, folder)) as started:
        yield started
        print(started.log)
        assert started.stop() == 0


def http_of(files: Files, url: str, **more: Any) -> httpx.Client:
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    return httpx.Client(verify=context, base_url=f"{url}/v1/codeq", timeout=30, **more)


def channel_of(files: Files, address: str) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    return grpc.secure_channel(address, credentials)


def reason_of(call: Any) -> str:
    """Returns the reason with which a call fails; empty: it succeeds."""
    try:
        call()
    except grpc.RpcError as error:
        status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        return info.reason
    return ""


def sdk_tls(files: Files) -> codeq.TlsFiles:
    return codeq.TlsFiles(files.ca, files.certificate, files.key)


def test_clients_without_a_token_are_whom_their_certificates_name(server: ServerProcess, shown: Shown) -> None:
    with codeq.Client(server.producer_addr, tls=sdk_tls(shown.shop)) as client:
        made = client.create("A", payload={"by": "grpc"})
    with codeq.Producer(server.producer_addr, tls=sdk_tls(shown.shop)) as producer:
        streamed = producer.create("A")
    with http_of(shown.shop, server.http_url) as http:
        posted = http.post("/tasks", json={"command": "A"})
        assert posted.status_code == 202
        assert http.get("/admin/queues").status_code == 200
    with http_of(shown.worker, server.http_url) as http:
        assert http.get(f"/tasks/{made.id}").json()["command"] == "A"
        refused = http.post("/tasks", json={"command": "A"})
        assert (refused.status_code, refused.json()["reason"]) == (403, "WRONG_TOKEN_KIND")
    done: list[str] = []
    subjects: set[str] = set()
    worker = codeq.Worker(server.worker_addr, tls=sdk_tls(shown.worker))

    @worker.task("A")
    def handle(task: codeq.Task) -> None:
        with http_of(shown.shop, server.http_url) as http:
            subjects.add(http.get(f"/tasks/{task.id}").json()["workerId"])
        done.append(task.id)
        if len(done) == 3:
            worker.stop()

    worker.run()
    assert set(done) == {made.id, streamed, posted.json()["id"]}
    assert {subject.partition("#")[0] for subject in subjects} == {WORKER}


def test_command_line_needs_no_token(server: ServerProcess, shown: Shown) -> None:
    files = ("--ca", str(shown.shop.ca), "--cert", str(shown.shop.certificate), "--key", str(shown.shop.key))
    done = run(server, "queue", "list", *files, CODEQ_TOKEN="")
    assert (done.returncode, done.stderr) == (0, "")


def test_with_a_header_the_token_decides(server: ServerProcess, shown: Shown) -> None:
    with http_of(shown.shop, server.http_url) as http:
        own = http.post("/tasks", json={"command": "A"}).json()["id"]
        by_token = {"Authorization": f"Bearer {TOKEN}"}
        assert http.get(f"/tasks/{own}").status_code == 200
        assert http.get(f"/tasks/{own}", headers=by_token).status_code == 404  # of another tenant
        assert http.get("/admin/queues", headers=by_token).json()["reason"] == "NOT_ADMIN"
        for header in ("Bearer wrong", "Bearer", "Basic c2hvcDo=", ""):
            assert http.get(f"/tasks/{own}", headers={"Authorization": header}).status_code == 401
    request = task_service_pb2.GetTaskRequest(task_id=own).SerializeToString()
    with channel_of(shown.shop, server.producer_addr) as channel:
        get = channel.unary_unary(GET)
        assert reason_of(lambda: get(request)) == ""
        assert reason_of(lambda: get(request, metadata=[("authorization", f"Bearer {TOKEN}")])) == "TASK_NOT_FOUND"
        for header in ("Bearer wrong", ""):
            call = lambda header=header: get(request, metadata=[("authorization", header)])  # noqa: E731
            assert reason_of(call) == "UNAUTHENTICATED"


def test_certificate_of_nobody_is_refused_each_call(server: ServerProcess, shown: Shown) -> None:
    with http_of(shown.stranger, server.http_url) as http:
        refused = http.get("/tasks/1")
        assert (refused.status_code, refused.json()["reason"]) == (401, "UNAUTHENTICATED")
        assert http.get("/server", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    work = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello()).SerializeToString()
    produce = producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello()).SerializeToString()
    with channel_of(shown.stranger, server.producer_addr) as channel:
        assert reason_of(lambda: channel.unary_unary(GET)(b"")) == "UNAUTHENTICATED"
        for name, hello in (("ProducerService/Produce", produce), ("WorkerService/Work", work)):
            call: Any = channel.stream_stream(f"/codeq.v1.{name}")
            assert reason_of(lambda call=call, hello=hello: list(call(iter([hello])))) == "UNAUTHENTICATED"


def test_certificate_of_another_authority_is_refused_at_the_handshake(server: ServerProcess, shown: Shown) -> None:
    context = ssl.create_default_context(cafile=shown.foreign.ca)
    context.load_cert_chain(shown.foreign.certificate, shown.foreign.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the client learns of it only after its handshake
    context.set_alpn_protocols(["h2", "http/1.1"])
    for address in addresses(server):
        with pytest.raises(ssl.SSLError):
            shaken(address, context, "localhost")


def test_no_header_passes_for_a_certificate(server: ServerProcess, shown: Shown) -> None:
    der = ssl.PEM_cert_to_DER_cert(shown.shop.certificate.read_text())
    plain = shown.shop.certificate.read_text().replace("\n", " ").strip()
    forged = [plain, f"Bearer {plain}", f"Certificate {SHOP}", f"mtls {SHOP}", f"x509 {der.hex()}", SHOP]
    raw = bytes(byte for byte in der if 0x20 <= byte < 0x7F or byte > 0xA0)  # what a header can hold of it
    with http_of(shown.stranger, server.http_url) as http:
        for header in [*map(str.encode, forged), raw, b"Bearer " + raw]:
            assert http.get("/tasks/1", headers={b"Authorization": header}).status_code == 401
        for name in ("X-Client-Cert", "X-SSL-Client-Cert", "X-Forwarded-Client-Cert", "Codeq-Gateway-Secret"):
            assert http.get("/tasks/1", headers={name: plain}).status_code == 401
    with channel_of(shown.stranger, server.producer_addr) as channel:
        for header in forged:
            call = lambda header=header: channel.unary_unary(GET)(b"", metadata=[("authorization", header)])  # noqa: E731
            assert reason_of(call) == "UNAUTHENTICATED"
        metadata = [("authorization-bin", der), ("x509_pem_cert", plain)]
        assert reason_of(lambda: channel.unary_unary(GET)(b"", metadata=metadata)) == "UNAUTHENTICATED"


def test_only_a_gateway_with_the_secret_vouches_for_certificates(server: ServerProcess, shown: Shown) -> None:
    der = ssl.PEM_cert_to_DER_cert(shown.shop.certificate.read_text())
    authorize = call_pb2.AuthorizeRequest(method=CREATE, client_certificate=der).SerializeToString()
    with channel_of(shown.stranger, server.producer_addr) as channel:
        call = channel.unary_unary("/codeq_internal.v1.CallService/Authorize")
        for metadata in ([], [("codeq-gateway-secret", SECRET)]):  # what gateways send is derived from it
            assert reason_of(lambda metadata=metadata: call(authorize, metadata=metadata)) == "UNAUTHENTICATED"


def test_certificate_that_expires_ends_its_streams(server: ServerProcess, shown: Shown, tmp_path: Path) -> None:
    names = [x509.UniformResourceIdentifier(WORKER)]
    pair = shown.authority.sign("w", days=6 / 86_400, names=names, organization="acme")
    files = shown.authority.files(tmp_path / "short", pair=pair)
    hello = worker_service_pb2.WorkRequest(hello=worker_service_pb2.WorkerHello()).SerializeToString()
    more = iter([hello])

    def messages() -> Iterator[bytes]:
        yield from more
        until(lambda: is_over)

    is_over = False
    with channel_of(files, server.worker_addr) as channel:
        seen: list[worker_service_pb2.WorkResponse] = []
        call: Any = channel.stream_stream("/codeq.v1.WorkerService/Work")(messages(), timeout=60)

        def read() -> None:
            seen.extend(worker_service_pb2.WorkResponse.FromString(each) for each in call)

        try:
            assert reason_of(read) == "UNAUTHENTICATED"
        finally:
            is_over = True
        assert call.details() == "the client certificate has expired"
        assert seen[0].HasField("welcome")
        assert seen[-1].HasField("notice")
        # The connection stays, but is nobody's any more.
        assert reason_of(lambda: channel.unary_unary(GET)(b"")) == "UNAUTHENTICATED"


def test_dropped_authority_keeps_new_connections_out_and_open_ones_their_identity(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    env = environment(old, tmp_path)
    clients = tmp_path / "clients.pem"
    clients.write_bytes(old.pem + new.pem)
    env["TLS_CLIENT_CA_FILE"] = str(clients)
    pair = old.sign("shop", names=[x509.UniformResourceIdentifier(SHOP)])
    files = old.files(tmp_path / "shop", pair=pair)
    with (
        ServerProcess(tmp_path / "server", env=env, prefix=QUICK) as server,
        http_of(files, server.http_url) as stays,
        channel_of(files, server.producer_addr) as channel,
    ):
        assert stays.get("/admin/queues").status_code == 200
        get = channel.unary_unary(GET)
        request = task_service_pb2.GetTaskRequest(task_id="1-1").SerializeToString()
        known = reason_of(lambda: get(request))
        replace(clients, new.pem)

        def is_out() -> bool:
            try:
                with http_of(files, server.http_url) as another:
                    another.get("/server")
            except httpx.TransportError:
                return True
            return False

        until(lambda: "tls_files_reloaded" in server.log and is_out())
        assert stays.get("/admin/queues").status_code == 200
        assert reason_of(lambda: get(request)) == known != "UNAUTHENTICATED"


def test_gateway_apart_passes_certificates_on(shown: Shown, tmp_path: Path) -> None:
    env = environment(shown.authority, tmp_path, "request") | {"GRPC_TLS_CLIENT_AUTH": "require"}
    link = shown.authority.files(tmp_path / "link", "gateway")
    env |= {
        "SERVER_TLS_CA_FILE": str(link.ca),
        "SERVER_TLS_CERT_FILE": str(link.certificate),
        "SERVER_TLS_KEY_FILE": str(link.key),
    }
    large = {"command": "A", "payload": "x" * 300_000}
    with ServerProcess(tmp_path / "server", env=env, apart=True) as server:
        with http_of(shown.shop, server.http_url) as http:
            until(lambda: http.get("/server").status_code == 200)
            made = http.post("/tasks", json={"command": "A"})
            assert made.status_code == 202
            assert http.post("/tasks", json=large).status_code == 202
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert http.get(f"/tasks/{made.json()['id']}", headers=headers).status_code == 404
            assert http.get("/server", headers={"Authorization": "Bearer wrong"}).status_code == 401
        with http_of(shown.stranger, server.http_url) as http:
            assert http.post("/tasks", json=large).status_code == 401
        with http_of(shown.worker, server.http_url) as http:
            claimed = http.post("/tasks/claim", json={"commands": ["A"]})
            assert (claimed.status_code, claimed.json()["id"]) == (200, made.json()["id"])
        trusting = ssl.create_default_context(cafile=link.ca)
        with httpx.Client(verify=trusting, base_url=f"{server.http_url}/v1/codeq") as http:
            assert http.get("/server").status_code == 401
            assert http.post("/tasks", json=large).status_code == 401


def test_server_that_asks_for_no_certificates_does_not_start(tmp_path: Path) -> None:
    env = environment(Authority(), tmp_path)
    for name in ("TLS_CLIENT_CA_FILE", "TLS_CLIENT_AUTH"):
        del env[name]
    server = ServerProcess(tmp_path / "server", env=env).spawn()
    try:
        assert server.wait() == 2
        (line,) = server.log.splitlines()
        assert line.startswith(
            "error: PRODUCER_AUTH_PROVIDER: mtls needs a listener that asks clients for certificates"
        )
        assert line.endswith("(CONFIGURATION)")
    finally:
        server.close()


def test_sdk_goes_on_with_the_certificate_that_its_files_hold_by_then(
    server: ServerProcess, shown: Shown, tmp_path: Path
) -> None:
    def short(name: str, uri: str) -> Pair:
        names = [x509.UniformResourceIdentifier(uri)]
        return shown.authority.sign(name, days=LIFE_SECONDS / 86_400, names=names, organization="acme")

    shop = shown.authority.files(tmp_path / "shop", pair=short("shop", SHOP))
    works = shown.authority.files(tmp_path / "worker", pair=short("worker", WORKER))
    worker = codeq.Worker(server.worker_addr, tls=sdk_tls(works), lease_seconds=10)
    done: list[str] = []

    @worker.task("B")
    def handle(task: codeq.Task) -> None:
        done.append(task.id)

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            shop.write(short("shop", SHOP))
            works.write(short("worker", WORKER))

    async def produce(client: codeq.Client) -> list[str]:
        made = []
        renewing = asyncio.create_task(renew())
        may_end = time.monotonic() + LIFE_SECONDS + 3 * RENEW_SECONDS
        async with (
            codeq.AsyncClient(server.producer_addr, tls=sdk_tls(shop)) as async_client,
            codeq.AsyncProducer(server.producer_addr, tls=sdk_tls(shop)) as producer,
        ):
            while time.monotonic() < may_end:
                made += [(await async_client.create("B")).id, await producer.create("B")]
                made.append((await asyncio.to_thread(client.create, "B")).id)
                await asyncio.sleep(RENEW_SECONDS / 20)
        renewing.cancel()
        return made

    def work() -> list[str]:
        try:
            with codeq.Client(server.producer_addr, tls=sdk_tls(shop)) as client:
                made = asyncio.run(produce(client))
            until(lambda: len(done) >= len(made))
            return made
        finally:
            worker.stop()

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(work)
        worker.run()
    assert sorted(done) == sorted(made.result())
    assert worker.stats.streams > 1
