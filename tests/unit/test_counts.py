"""Lists are counted before they are parsed and before rules are applied to their items."""

from __future__ import annotations

import time

import pytest
from codeq.v1 import producer_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from codeq_server.core.errors import Rejection
from codeq_server.core.task_fields import varint
from codeq_server.services.counts import PARSED_BYTES_MAX, PARSED_ITEMS_MAX, parser
from codeq_server.services.validation import check_message
from google.protobuf.message import DecodeError, Message

EMPTY_TASKS = b"\x0a\x00" * 4_500_000
RESULT_OF_ARTIFACTS = task_service_pb2.SubmitResultRequest(task_id="x").SerializeToString() + b"\x3a\x00" * 4_000_000


def nested(content: bytes) -> bytes:
    """Returns a message that contains this message as field 1."""
    return b"\x0a" + varint(len(content)) + content


@pytest.mark.parametrize(
    ("request_class", "content", "field"),
    [
        (task_service_pb2.BatchCreateTasksRequest, EMPTY_TASKS, "tasks"),
        (task_service_pb2.BatchSubmitResultsRequest, EMPTY_TASKS, "results"),
        (task_service_pb2.BatchSubmitResultsRequest, nested(RESULT_OF_ARTIFACTS), "results.artifacts"),
        (task_service_pb2.SubmitResultRequest, RESULT_OF_ARTIFACTS, "artifacts"),
        (task_service_pb2.ClaimTaskRequest, EMPTY_TASKS, "commands"),
        (producer_service_pb2.ProduceRequest, b"\x12\x00" * 4_500_000, "tasks"),
        (worker_service_pb2.WorkRequest, b"\x22\x00" * 4_500_000, "outcomes"),
    ],
)
def test_message_with_millions_of_items_is_rejected_without_parsing(
    request_class: type[Message], content: bytes, field: str
) -> None:
    began = time.process_time()
    with pytest.raises(Rejection) as refused:
        parser(request_class)(content)
    assert refused.value.violations[0][0] == field
    assert time.process_time() - began < 1  # parsing it takes two seconds and a gigabyte


def test_large_messages_within_the_limits_are_parsed_unchanged() -> None:
    specs = [task_pb2.TaskSpec(command="A", payload=b"[\n%s]" % (b"1,\n" * 2_600 + b"1"), priority=3)] * 1000
    request = task_service_pb2.BatchCreateTasksRequest(tasks=specs, atomic=True)
    content = request.SerializeToString()
    assert content.count(b"\x0a") > PARSED_ITEMS_MAX
    assert parser(task_service_pb2.BatchCreateTasksRequest)(content) == request


@pytest.mark.parametrize(
    "tail",
    [b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x08\x01" * 200_000],
    ids=["cut off", "endless number", "group", "other fields"],
)
def test_malformed_messages_are_rejected_during_counting(tail: bytes) -> None:
    padding = b"\x1a" + varint(PARSED_BYTES_MAX) + b"\x0a" * PARSED_BYTES_MAX
    with pytest.raises((DecodeError, Rejection)):
        parser(task_service_pb2.BatchCreateTasksRequest)(padding + tail)


def test_item_rules_are_not_checked_if_there_are_too_many_items() -> None:
    began = time.process_time()
    with pytest.raises(Rejection) as refused:
        check_message(task_service_pb2.ClaimTaskRequest(commands=["!"] * 60_000))
    assert refused.value.violations == (("commands", "must have at most 256 items"),)
    assert time.process_time() - began < 1  # applying the rules takes five seconds
