"""Input of any depth is accepted or rejected, even on a small stack: compiled code has no recursion limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from codeq.v1 import task_service_pb2 as pb
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.items import compile_body
from codeq_server.core.errors import Rejection
from codeq_server.services.counts import PARSED_BYTES_MAX, parser
from codeq_server.services.fingerprint import canonical_json
from codeq_server.services.validation import is_json
from google.protobuf.message import DecodeError

STACK_BYTES = 512 << 10
"""Stack size of the thread that reads the input, a sixteenth of the usual size."""
DEPTHS = [1, 100, 900, 1_100, 100_000, 500_000]
"""Nesting levels below, at and far beyond the limits of the parsers; the last of them fills the largest payload."""


def on_small_stack(function: Callable[[], Any]) -> Any:
    """Calls a function in a thread with a small stack; returns its result or raises its exception."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except Exception as error:  # noqa: BLE001 - passed on
            result.set_exception(error)

    before = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return result.result()


def nested(depth: int, kind: str) -> bytes:
    """Returns nested JSON arrays or objects."""
    return b"[" * depth + b"]" * depth if kind == "array" else b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("kind", ["array", "object"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_body_with_a_nested_payload_is_decoded_or_rejected(depth: int, kind: str) -> None:
    decode = compile_body(pb.CreateTaskRequest.DESCRIPTOR.fields_by_name["spec"].message_type, ())
    message = pb.CreateTaskRequest().spec
    payload = nested(depth, kind)
    try:
        on_small_stack(lambda: decode(b'{"command":"a","payload":' + payload + b"}", message))
    except CallFailed:
        assert depth > 900
    else:
        assert message.payload == payload


@pytest.mark.parametrize("kind", ["array", "object"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_nested_unknown_member_is_rejected(depth: int, kind: str) -> None:
    decode = compile_body(pb.CreateTaskRequest.DESCRIPTOR.fields_by_name["spec"].message_type, ())
    with pytest.raises(CallFailed):
        on_small_stack(lambda: decode(b'{"none":' + nested(depth, kind) + b"}", pb.CreateTaskRequest().spec))


@pytest.mark.parametrize("kind", ["array", "object"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_nested_payload_has_a_canonical_form_or_none(depth: int, kind: str) -> None:
    payload = nested(depth, kind)
    assert on_small_stack(lambda: canonical_json(payload)) in {payload, None}
    assert on_small_stack(lambda: is_json(payload)) is (depth <= 900) or depth == 1_100


@pytest.mark.parametrize("depth", DEPTHS)
def test_message_with_nested_groups_is_skipped_or_rejected(depth: int) -> None:
    groups = b"\xa3\x06" * depth + b"\xa4\x06" * depth  # field 100, which no message has
    parse = parser(pb.BatchCreateTasksRequest)
    try:
        on_small_stack(lambda: parse(groups))
    except DecodeError:
        assert depth > 90
    else:
        assert depth <= 100


def test_counting_a_large_nested_message_goes_no_deeper_than_its_type() -> None:
    content = b""
    while len(content) < 2 * PARSED_BYTES_MAX:
        content = b"\x0a" + _varint(len(content)) + content
        content += b"\x0a\x00" * 1000
    with pytest.raises((DecodeError, Rejection)):
        on_small_stack(lambda: parser(pb.BatchCreateTasksRequest)(content))


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])
