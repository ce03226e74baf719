"""Transcoding of messages with every kind of field, and unsupported rules."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from codeq.options.v1 import options_pb2
from codeq_gateway.decode import compile_decoder
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.downloads import disposition
from codeq_gateway.encode import compile_encoder
from codeq_gateway.router import VARIABLE, Router
from codeq_gateway.routes import BATCH_BODY_BYTES_MAX, BODY_BYTES_MAX, Operation, read_operations
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from hypothesis import given
from hypothesis import strategies as st
from task_double import SERVICES

_FILES = itertools.count()


def _field(name: str, number: int, kind: Field.Type.ValueType, type_name: str = "", *, repeated: bool = False) -> Field:
    label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    return Field(name=name, number=number, type=kind, label=label, type_name=type_name or None)


def _file(fields: Sequence[Field], rules: Sequence[http_pb2.HttpRule] = ()) -> FileDescriptor:
    """Returns a file with a message `Every`, which has these fields, and a service with a method for each rule."""
    file = descriptor_pb2.FileDescriptorProto(name=f"test{next(_FILES)}.proto", package="test", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    colour = file.enum_type.add(name="BrightColour")
    for number, name in enumerate(("UNSPECIFIED", "RED", "DARK_BLUE")):
        colour.value.add(name=f"BRIGHT_COLOUR_{name}", number=number)
    inner = file.message_type.add(name="Inner")
    inner.field.append(_field("some_text", 1, Field.TYPE_STRING))
    every = file.message_type.add(name="Every")
    every.field.extend(fields)
    if any(field.HasField("oneof_index") for field in fields):
        every.oneof_decl.add(name="choice")
    service = file.service.add(name="EveryService")
    for number, rule in enumerate(rules):
        method = service.method.add(name=f"Call{number}", input_type=".test.Every", output_type=".test.Every")
        method.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool.FindFileByName(file.name)


ALL = [
    _field("a_int32", 1, Field.TYPE_INT32),
    _field("a_uint32", 2, Field.TYPE_UINT32),
    _field("a_int64", 3, Field.TYPE_INT64),
    _field("a_uint64", 4, Field.TYPE_UINT64),
    _field("a_double", 5, Field.TYPE_DOUBLE),
    _field("a_bool", 6, Field.TYPE_BOOL),
    _field("a_string", 7, Field.TYPE_STRING),
    _field("a_colour", 8, Field.TYPE_ENUM, ".test.BrightColour"),
    _field("a_time", 9, Field.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
    _field("a_inner", 10, Field.TYPE_MESSAGE, ".test.Inner"),
    _field("strings", 11, Field.TYPE_STRING, repeated=True),
    _field("colours", 12, Field.TYPE_ENUM, ".test.BrightColour", repeated=True),
    _field("tokens", 13, Field.TYPE_UINT64, repeated=True),
    _field("inners", 14, Field.TYPE_MESSAGE, ".test.Inner", repeated=True),
]
EVERY = _file(ALL).message_types_by_name["Every"]
NEW = message_factory.GetMessageClass(EVERY)
DECODE = compile_decoder(EVERY)
ENCODE = compile_encoder(EVERY)
EMPTY = {
    "aInt32": 0, "aUint32": 0, "aInt64": 0, "aUint64": "0", "aDouble": 0.0, "aBool": False, "aString": "",
    "aColour": "UNSPECIFIED", "strings": [], "colours": [], "tokens": [], "inners": [],
}  # fmt: skip


def _operations(fields: Sequence[Field], *rules: http_pb2.HttpRule) -> list[Operation]:
    return list(read_operations(_file(fields, rules).services_by_name.values()))


def _decoded(value: object) -> Any:
    message = NEW()
    DECODE(json.dumps(value).encode(), message)
    return message


def test_empty_message_encodes_fields_without_presence() -> None:
    assert json.loads(ENCODE(NEW())) == EMPTY


@given(
    st.fixed_dictionaries(
        {
            "aInt32": st.integers(-(2**31), 2**31 - 1),
            "aUint32": st.integers(0, 2**32 - 1),
            "aInt64": st.integers(-(2**63), 2**63 - 1),
            "aUint64": st.integers(0, 2**64 - 1).map(str),
            "aDouble": st.floats(allow_nan=False, allow_infinity=False),
            "aBool": st.booleans(),
            "aString": st.text(),
            "aColour": st.sampled_from(["RED", "DARK_BLUE"]),
            "strings": st.lists(st.text(), max_size=3),
            "colours": st.lists(st.sampled_from(["RED", "DARK_BLUE"]), max_size=3),
            "tokens": st.lists(st.integers(0, 2**64 - 1).map(str), max_size=3),
            "inners": st.lists(st.fixed_dictionaries({"someText": st.text()}), max_size=3),
        },
        optional={
            "aInner": st.fixed_dictionaries({"someText": st.text()}),
            "aTime": st.datetimes(timezones=st.none()).map(lambda at: at.isoformat(timespec="milliseconds") + "Z"),
        },
    )
)
def test_decoded_message_encodes_to_the_original_json(value: dict[str, object]) -> None:
    assert json.loads(ENCODE(_decoded(value))) == value


def test_numbers_outside_the_range_of_their_field_are_rejected() -> None:
    cases = {
        "aInt32": 2**31,
        "aUint32": -1,
        "aInt64": 2**63,
        "aUint64": 2**64,
        "aDouble": "1",
        "aBool": 1,
        "tokens": ["x"],
    }
    for key, value in cases.items():
        with pytest.raises(CallFailed, match=key):
            _decoded({key: value})
    with pytest.raises(CallFailed) as failed:
        _decoded({"tokens": ["1", "99999999999999999999"]})
    assert failed.value.violations[0][0] == "tokens[1]"
    with pytest.raises(CallFailed) as failed:
        _decoded({"aInner": {"some": 1}})
    assert failed.value.violations[0][0] == "aInner.some"


def test_empty_nested_object_is_present() -> None:
    assert _decoded({"aInner": {}}).HasField("a_inner")
    assert _decoded({"aTime": "1970-01-01T00:00:00Z"}).HasField("a_time")


def test_unknown_enum_value_is_encoded_as_its_number() -> None:
    assert json.loads(ENCODE(NEW(a_colour=77)))["aColour"] == 77


def test_times_are_truncated_to_milliseconds() -> None:
    message: Any = NEW()
    message.a_time.seconds = -1
    message.a_time.nanos = 999_999_999
    assert json.loads(ENCODE(message))["aTime"] == "1969-12-31T23:59:59.999Z"


def test_query_parameters_fill_fields_of_every_type() -> None:
    (operation,) = _operations(ALL, http_pb2.HttpRule(get="/every/{a_string}"))
    query = (
        b"aInt32=-5&aUint64=18446744073709551615&aDouble=1.5&aBool=true&aColour=DARK_BLUE"
        b"&aTime=2024-01-01T00:00:00%2B01:00&strings=a&strings=&colours=RED&tokens=7&tokens=8"
    )
    message, _ = operation.request(["name"], query, b"", {})
    assert json.loads(ENCODE(message)) == EMPTY | {
        "aInt32": -5, "aUint64": "18446744073709551615", "aDouble": 1.5, "aBool": True, "aString": "name",
        "aColour": "DARK_BLUE", "aTime": "2023-12-31T23:00:00.000Z", "strings": ["a", ""], "colours": ["RED"],
        "tokens": ["7", "8"],
    }  # fmt: skip
    for bad in (
        b"aBool=True",
        b"aBool=1",
        b"aDouble=nan",
        b"aTime=1",
        b"tokens=7&tokens=x",
        b"aString=x",
        b"aInner=x",
        b"aUint64=",
    ):
        with pytest.raises(CallFailed, match=bad.partition(b"=")[0].decode()):
            operation.request(["name"], bad, b"", {})


def test_every_binding_of_a_rule_becomes_an_operation() -> None:
    rule = http_pb2.HttpRule(post="/every", body="*", response_body="a_inner")
    rule.additional_bindings.add(put="/every/{a_int64}", body="a_inner")
    first, second = _operations(ALL, rule)
    assert (first.http_method, first.template, first.call_name) == ("POST", "/every", "/test.EveryService/Call0")
    assert first.reply(NEW(a_inner={"some_text": "x"})) == (200, b'{"someText":"x"}\n')
    request, _ = second.request(["-7"], b"aBool=true", b'{"someText":"x"}', {})
    assert request == message_factory.GetMessageClass(second.descriptor.input_type)(
        a_int64=-7, a_bool=True, a_inner={"some_text": "x"}
    )
    with pytest.raises(CallFailed, match="a_int64"):
        second.request(["x"], b"", b"{}", {})


def test_batch_operations_have_a_larger_body_limit() -> None:
    limits = {
        operation.call_name.rpartition("/")[2]: operation.body_bytes_max for operation in read_operations(SERVICES)
    }
    assert limits["BatchCreateTasks"] == limits["BatchSubmitResults"] == BATCH_BODY_BYTES_MAX
    assert limits["CreateTask"] == limits["ClaimTasks"] == BODY_BYTES_MAX
    assert limits["GetTask"] == 0


@pytest.mark.parametrize(
    "rule",
    [
        http_pb2.HttpRule(get="/every/{a_string=**}"),
        http_pb2.HttpRule(get="/every/*"),
        http_pb2.HttpRule(get="/every:verb"),
        http_pb2.HttpRule(get="every"),
        http_pb2.HttpRule(get="/every/{absent}"),
        http_pb2.HttpRule(get="/every/{strings}"),
        http_pb2.HttpRule(post="/every", body="absent"),
        http_pb2.HttpRule(post="/every", body="inners"),
        http_pb2.HttpRule(get="/every", response_body="absent"),
        http_pb2.HttpRule(custom=http_pb2.CustomHttpPattern(kind="GET", path="/every")),
    ],
)
def test_unsupported_http_rule_is_rejected_at_startup(rule: http_pb2.HttpRule) -> None:
    with pytest.raises(ValueError, match=r"test\."):
        _operations(ALL, rule)


@pytest.mark.parametrize(
    "rule", [http_pb2.HttpRule(post="/every", body="a_string"), http_pb2.HttpRule(get="/x", response_body="a_time")]
)
def test_body_field_that_is_not_a_message_is_rejected_at_startup(rule: http_pb2.HttpRule) -> None:
    with pytest.raises(TypeError, match=r"test\.Every"):
        _operations(ALL, rule)


@pytest.mark.parametrize(
    "fields",
    [
        [_field("times", 1, Field.TYPE_MESSAGE, ".google.protobuf.Timestamp", repeated=True)],
        [
            Field(name="one", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL, oneof_index=0),
            Field(name="two", number=2, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL, oneof_index=0),
        ],
    ],
)
def test_field_without_a_json_mapping_is_rejected_at_startup(fields: list[Field]) -> None:
    with pytest.raises(TypeError, match="no JSON form"):
        _operations(fields, http_pb2.HttpRule(post="/every", body="*"))


@pytest.mark.parametrize(("text", "content"), [("", b""), ("YQ==", b"a"), ("YQ", b"a"), ("+/8", b"\xfb\xff")])
def test_base64_without_padding_is_accepted(text: str, content: bytes) -> None:
    [operation] = _operations([_field("data", 1, Field.TYPE_BYTES)], http_pb2.HttpRule(post="/every", body="*"))
    request, _ = operation.request([], b"", b'{"data":"%s"}' % text.encode(), {})
    assert request.data == content  # type: ignore[attr-defined]
    with pytest.raises(CallFailed, match="base64"):
        operation.request([], b"", b'{"data":"a!"}', {})


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.txt", "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt"),
        ('a"b%;.txt', "attachment; filename=\"a_b_;.txt\"; filename*=UTF-8''a%22b%25%3B.txt"),
        ("ü 1", "attachment; filename=\"_ 1\"; filename*=UTF-8''%C3%BC%201"),
    ],
)
def test_download_file_name_is_quoted(name: str, header: str) -> None:
    assert disposition(name) == header


def test_router_prefers_literals_and_falls_back_to_variables() -> None:
    router: Router[str] = Router()
    router.add("GET", ["tasks", VARIABLE], "one")
    router.add("POST", ["tasks", "claim"], "claim")
    router.add("POST", ["tasks", VARIABLE, "result"], "result")
    router.add("POST", ["tasks", "claim", "batch"], "batch")
    assert router.find("POST", b"/tasks/claim") == ("claim", [])
    assert router.find("GET", b"/tasks/claim") == ("one", ["claim"])
    assert router.find("POST", b"/tasks/claim/result") == ("result", ["claim"])
    assert router.find("POST", b"/tasks/claim/batch") == ("batch", [])
    assert router.find("GET", b"/tasks/%63laim%2Fx") == ("one", ["claim/x"])
    router.add("GET", [VARIABLE, VARIABLE, "end"], "end")
    assert router.find("GET", b"/tasks/claim/end") == ("end", ["tasks", "claim"])
    with pytest.raises(CallFailed, match="no route"):
        router.find("GET", b"/tasks/")
    with pytest.raises(ValueError, match="two routes"):
        router.add("GET", ["tasks", VARIABLE], "again")


def test_embedded_json_field_is_recognised_by_its_option() -> None:
    embedded = _field("data", 1, Field.TYPE_BYTES)
    embedded.options.Extensions[options_pb2.json_embedded] = True  # type: ignore[index]
    every = _file([embedded]).message_types_by_name["Every"]
    message = message_factory.GetMessageClass(every)()
    compile_decoder(every)(b'{"data": [1.0 , 2] }', message)
    assert compile_encoder(every)(message) == b'{"data":[1.0 , 2]}\n'
