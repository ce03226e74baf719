"""Unpaired surrogates in JSON bodies: preserved in payloads, replaced in human-readable text, rejected elsewhere."""

from __future__ import annotations

import json
import time

import pytest
from codeq.v1 import task_service_pb2 as pb
from codeq_gateway.decode import compile_decoder
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.surrogates import mark_unpaired
from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20
SECONDS_MOST = 5.0
"""Limit of processor time, far above the expected use."""
PIECES = [b"\\ud83d", b"\\uDE00", b"\\udfff", b"\\uD800", b"\\\\", b"\\n", b"\\u0041", b"ud83d", b"~", b"a", b'\\"']


def created(body: bytes) -> pb.CreateTaskRequest:
    request = pb.CreateTaskRequest()
    compile_decoder(pb.CreateTaskRequest.DESCRIPTOR.fields_by_name["spec"].message_type)(body, request.spec)
    return request


def said(body: bytes) -> pb.SubmitResultRequest:
    request = pb.SubmitResultRequest()
    compile_decoder(request.DESCRIPTOR, ["task_id"])(body, request)
    return request


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from([b'"%s"', b'{"%s":[1, "%s"]}']))
def test_payload_with_unpaired_surrogates_is_preserved_byte_for_byte(pieces: list[bytes], form: bytes) -> None:
    payload = form.replace(b"%s", b"".join(pieces))
    json.loads(payload)
    assert created(b'{"payload": %s, "command":"A"}' % payload).spec.payload == payload


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_unpaired_surrogates_in_human_readable_text_are_replaced(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    expected = json.loads(b'"%s"' % text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert said(b'{"status":"FAILED","error":"%s"}' % text).error == expected


@pytest.mark.parametrize("name", ["command", "idempotencyKey", "taskId"])
def test_unpaired_surrogate_in_a_name_is_rejected_with_its_field(name: str) -> None:
    with pytest.raises(CallFailed) as refused:
        created(b'{"%s":"a\\ud83d"}' % name.encode())
    assert refused.value.violations == [(name, "contains an unpaired surrogate, which is not a character")]


def test_unpaired_surrogate_in_a_list_is_rejected_with_its_index() -> None:
    request = pb.ClaimTaskRequest()
    with pytest.raises(CallFailed) as refused:
        compile_decoder(request.DESCRIPTOR)(b'{"commands":["a","\\ud83d"]}', request)
    assert refused.value.violations[0][0] == "commands[1]"


@pytest.mark.parametrize("body", [b'{"payload":\\ud83d}', b'{"payload":"\\ud83d}', b'{"payload":"\\ud83"}', b"\\ud83d"])
def test_unpaired_surrogate_does_not_make_malformed_json_valid(body: bytes) -> None:
    with pytest.raises(CallFailed):
        created(body)


@pytest.mark.parametrize("unit", [b"\\ud83d", b"\\ud83d\\ude00", b"\\\\", b"\\u0041", b"~"])
def test_unpaired_surrogates_of_a_large_body_are_marked_in_bounded_time(unit: bytes) -> None:
    body = b'"' + unit * (MIB // len(unit)) + b'\\ud83d"'
    started = time.thread_time()
    marked, mark = mark_unpaired(body)
    assert time.thread_time() - started < SECONDS_MOST
    assert marked.replace(mark, b"\\u") == body
