"""Access to a node: only with the cluster secret and, if required, a certificate."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from codeq_internal.v1 import raft_pb2
from codeq_server.replication.raft.channels import Credentials, TlsFiles, TransportError
from codeq_server.replication.raft.wire import write_hello
from raft_nodes import SECRET, Node, connected, contents, eventually, raw_call, reaches, refusal_of, settings, started

STRANGER = Node("stranger", 9).me


def first_frame(method: str) -> Any:
    """Returns the first message of a node that calls a method."""
    hello = write_hello(STRANGER)
    message = raft_pb2.RaftMessage(group_id=1, from_id=9, to_id=1, content=b"let me in")
    if method == "InstallSnapshot":
        offer = raft_pb2.SnapshotOffer(hello=hello, message=message, manifest=b'{"files": []}')
        return raft_pb2.InstallSnapshotRequest(offer=offer)
    return raft_pb2.DeliverRequest(hello=hello, messages=[message])


@pytest.mark.parametrize("secret", [None, "", "open sesam", "open sesame!", "OPEN SESAME"])
@pytest.mark.parametrize("method", ["Deliver", "InstallSnapshot", "Unknown"])
async def test_stranger_without_the_secret_can_neither_send_nor_receive(
    tmp_path: Path, method: str, secret: str | None
) -> None:
    a = Node("a", 1)
    async with started(a, settings(tmp_path)) as transport, raw_call(transport.port, method, secret) as call:
        assert await refusal_of(call, first_frame(method)) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "the cluster secret is missing or wrong",
        )
        assert (a.met_peers, a.received, a.installed) == ([], [], [])
        assert contents(tmp_path) == {}


@pytest.mark.parametrize("method", ["Deliver", "InstallSnapshot"])
async def test_caller_with_the_secret_is_accepted(tmp_path: Path, method: str) -> None:
    a = Node("a", 1)
    async with started(a, settings(tmp_path)) as transport, raw_call(transport.port, method) as call:
        await call.write(first_frame(method))
        await eventually(lambda: a.received or a.installed)
        assert a.met_peers == [(STRANGER, "")]


async def test_nodes_with_different_secrets_do_not_connect(tmp_path: Path) -> None:
    a, b = Node("a", 1), Node("b", 2)
    async with (
        started(a, settings(tmp_path / "a")) as transport,
        started(b, settings(tmp_path / "b", secret="another"), {"a": f"127.0.0.1:{transport.port}"}) as there,
    ):
        transport.add("b", f"127.0.0.1:{there.port}")
        transport.send(2, 1, b"?")
        there.send(1, 1, b"?")
        await eventually(lambda: a.lost and b.lost)
        assert (a.met_peers, b.met_peers) == ([], [])


async def test_transport_without_a_secret_accepts_any_caller(tmp_path: Path) -> None:
    async with connected(tmp_path, Node("a", 1), b := Node("b", 2), secret="") as (transport, _):
        transport.send(2, 1, b"hello")
        await eventually(lambda: b.received)


def test_transport_settings_do_not_show_the_secret(tmp_path: Path) -> None:
    assert SECRET not in repr(settings(tmp_path))


@dataclass(frozen=True)
class Authority:
    """Signs certificates of nodes on the loopback."""

    folder: Path

    def found(self) -> Authority:
        self.folder.mkdir()
        self._openssl("req", "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
        return self

    def files(self, name: str) -> TlsFiles:
        """Returns the files of a node with a fresh certificate."""
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        self._openssl("req", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
        return TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.folder / "ca.pem")

    def _openssl(self, command: str, *arguments: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes") if command == "req" else ()
        subprocess.run(["openssl", command, *key, *arguments], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority").found()


async def test_nodes_with_certificates_connect(tmp_path: Path, authority: Authority) -> None:
    a, b = Node("a", 1), Node("b", 2)
    tls = authority.files("node")
    async with connected(tmp_path, a, b, tls=tls) as (transport, there):
        transport.send(2, 1, b"hello")
        there.send(1, 1, b"hello")
        await eventually(lambda: a.received and b.received)
        async with raw_call(transport.port, "Deliver", None, _client(tls)) as call:
            assert (await refusal_of(call, first_frame("Deliver")))[0] is grpc.StatusCode.UNAUTHENTICATED


def _client(tls: TlsFiles, *, certificate: bool = True) -> grpc.ChannelCredentials:
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes()) if certificate else (None, None)
    return grpc.ssl_channel_credentials(tls.authority.read_bytes(), *pair)


async def test_caller_without_a_valid_certificate_is_rejected(tmp_path: Path, authority: Authority) -> None:
    a = Node("a", 1)
    tls = authority.files("node")
    foreign = Authority(tmp_path / "foreign").found().files("node")
    wrong = TlsFiles(foreign.certificate, foreign.key, tls.authority)
    async with started(a, settings(tmp_path / "a", tls=tls)) as transport:
        for credentials in (None, _client(tls, certificate=False), _client(wrong)):
            async with raw_call(transport.port, "Deliver", SECRET, credentials) as call:
                assert (await refusal_of(call, first_frame("Deliver")))[0] is grpc.StatusCode.UNAVAILABLE
        assert (a.met_peers, a.received) == ([], [])
        async with raw_call(transport.port, "Deliver", SECRET, _client(tls)) as call:
            await call.write(first_frame("Deliver"))
            await eventually(lambda: a.received)


async def test_transport_reveals_nothing_to_an_impostor(tmp_path: Path, authority: Authority) -> None:
    a, impostor = Node("a", 1), Node("b", 2)
    foreign = Authority(tmp_path / "foreign").found().files("node")
    async with (
        started(impostor, settings(tmp_path / "b", tls=foreign)) as there,
        started(a, settings(tmp_path / "a", tls=authority.files("node"))) as transport,
    ):
        transport.add("b", f"127.0.0.1:{there.port}")
        transport.send(2, 1, b"?")
        await eventually(lambda: a.lost)
        assert (a.met_peers, impostor.met_peers, reaches(transport, 2)) == ([], [], False)


async def test_nodes_move_to_another_authority_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    a, b = Node("a", 1), Node("b", 2)
    old, new = authority.files("node"), Authority(tmp_path / "new").found().files("node")
    async with connected(tmp_path, a, b, tls=old) as (transport, there):
        transport.send(2, 1, b"over the old stream")
        await eventually(lambda: b.received)
        for each in (transport, there):
            each.renew(*(path.read_bytes() for path in (new.authority, new.key, new.certificate)))
        transport.send(2, 1, b"over the old stream")
        await eventually(lambda: len(b.received) == 2)
        async with raw_call(transport.port, "Deliver", SECRET, _client(old)) as call:
            assert (await refusal_of(call, first_frame("Deliver")))[0] is grpc.StatusCode.UNAVAILABLE
        async with raw_call(transport.port, "Deliver", SECRET, _client(new)) as call:
            await call.write(first_frame("Deliver"))
            await eventually(lambda: a.received)
        address = f"127.0.0.1:{there.port}"
        transport.remove("b")
        transport.add("b", address)
        await eventually(lambda: reaches(transport, 2))


@pytest.mark.parametrize(
    ("broken", "content", "words"),
    [
        ("certificate", None, "cannot read .*node.pem: No such file"),
        ("key", None, "cannot read .*node.key: No such file"),
        ("authority", None, "cannot read .*ca.pem: No such file"),
        ("certificate", b"?", "node.pem and .*node.key are not a certificate and its key"),
        ("key", b"?", "node.pem and .*node.key are not a certificate and its key"),
        ("authority", b"?", "ca.pem contains no certificate"),
    ],
)
def test_error_names_the_invalid_tls_file(
    tmp_path: Path, authority: Authority, broken: str, content: bytes | None, words: str
) -> None:
    tls = authority.files("node")
    path: Path = getattr(tls, broken)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TransportError, match=words):
        Credentials(SECRET, tls)
