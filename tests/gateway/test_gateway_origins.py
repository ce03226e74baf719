"""The address of the HTTP client goes along with each call, whichever process the gateway runs in."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from authority import Authority
from codeq.v1 import error_pb2
from codeq_gateway import origins
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.links import Messages
from codeq_gateway.reflection import CALL_FILE
from google.protobuf import descriptor_pool
from other_versions import files_of_calls, pool_of
from served_gateway import Served, serving
from test_gateway_tls import client_context, server_context

GET = b"GET /v1/codeq/tasks/t HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\nConnection: close\r\n\r\n"


async def ask(served: Served, tls: ssl.SSLContext | None = None) -> str:
    """Makes a call on a connection of its own; returns the connection's address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=tls)
    host, port = writer.get_extra_info("sockname")
    writer.write(GET)
    await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return f"{host}:{port}"


@pytest.mark.parametrize("apart", [False, True])
async def test_call_carries_the_address_of_its_client_and_ignores_headers(*, apart: bool) -> None:
    async with serving(apart=apart) as served:
        assert [await ask(served), await ask(served)] == [call.origin for call in served.double.calls]


@pytest.mark.parametrize("apart", [False, True])
async def test_check_of_a_caller_before_the_body_carries_the_address(*, apart: bool) -> None:
    async with serving(apart=apart) as served:
        served.double.refuses = CallFailed(error_pb2.ERROR_REASON_UNAUTHENTICATED, "no")
        origin = await ask(served)
        assert served.double.calls == []
        if not apart:
            assert served.double.origins == [origin]


@pytest.mark.parametrize(
    ("peer", "written"),
    [
        (("192.0.2.1", 4321), "192.0.2.1:4321"),
        (("2001:db8::1", 4321, 0, 0), "[2001:db8::1]:4321"),
        (("::ffff:192.0.2.1", 4321, 0, 0), "192.0.2.1:4321"),
        ("/run/socket", ""),
        (None, ""),
    ],
)
def test_address_of_a_socket_is_host_and_port(peer: object, written: str) -> None:
    assert origins.of_socket(peer) == written


async def test_call_over_tls_carries_the_address_of_its_client(tmp_path: Path) -> None:
    files = Authority().files(tmp_path)
    context = server_context(files)
    async with serving(tls=lambda: context) as served:
        origin = await ask(served, client_context(files))
        assert [call.origin for call in served.double.calls] == [origin]


def test_server_of_a_version_without_the_field_gets_no_address() -> None:
    files = files_of_calls()
    for message in files[CALL_FILE].message_type:
        kept = [field for field in message.field if field.name != "origin"]
        del message.field[:]
        message.field.extend(kept)
    pool = pool_of(files)
    for known, sent in ((pool, b""), (descriptor_pool.Default(), b"192.0.2.1:4321")):
        messages = Messages(known)
        request = messages.authorize_request()
        messages.set_caller(request, "Bearer t", "192.0.2.1:4321")
        assert request.authorization == "Bearer t"
        assert (b"192.0.2.1" in request.SerializeToString()) == bool(sent)
