"""The protos are complete: they declare who may call each RPC and the codes of each error. Everything has a comment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from codeq.options.v1 import options_pb2
from codeq.v1 import error_pb2
from codeq_server.auth.access import METHODS
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
REASONS = list(error_pb2.ErrorReason.DESCRIPTOR.values)


def _name(value: object) -> str:
    return getattr(value, "full_name", getattr(value, "name", ""))


def test_every_public_service_is_checked_here() -> None:
    written = "".join(path.read_text() for path in (ROOT / "proto/api/codeq/v1").glob("*.proto"))
    assert len(re.findall(r"^  rpc ", written, re.MULTILINE)) == len(METHODS)


@pytest.mark.parametrize("method", METHODS, ids=_name)
def test_every_rpc_declares_who_may_call_it(method: MethodDescriptor) -> None:
    access = method.GetOptions().Extensions[options_pb2.access]
    assert access.principal != options_pb2.PRINCIPAL_UNSPECIFIED
    assert access.scope.startswith("codeq:") == (access.principal == options_pb2.PRINCIPAL_WORKER)


@pytest.mark.parametrize("method", [m for m in METHODS if not m.client_streaming], ids=_name)
def test_every_unary_rpc_has_a_rest_path_under_the_common_prefix(method: MethodDescriptor) -> None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    path = getattr(rule, rule.WhichOneof("pattern") or "get")
    assert path.startswith("/v1/codeq/")


@pytest.mark.parametrize("value", REASONS, ids=_name)
def test_every_error_reason_has_its_codes(value: object) -> None:
    options = value.GetOptions()
    assert options.Extensions[options_pb2.grpc_code] != 0
    assert 400 <= options.Extensions[options_pb2.http_status] < 600


def test_rpcs_fields_and_enum_values_have_comments(tmp_path: Path) -> None:
    out = tmp_path / "api.binpb"
    api = ROOT / "proto/api"
    includes = [
        api,
        ROOT / "proto/vendor/googleapis",
        ROOT / "proto/vendor/protovalidate",
        Path(protoc.__file__).parent / "_proto",
    ]
    names = [path.relative_to(api).as_posix() for path in sorted(api.rglob("*.proto"))]
    arguments = [
        "protoc",
        *(f"-I{path}" for path in includes),
        "--include_source_info",
        f"--descriptor_set_out={out}",
        *names,
    ]
    assert protoc.main(arguments) == 0
    silent = []
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        told = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
        # Numbers of the fields of FileDescriptorProto: 4 messages, 5 enums, 6 services; below each 2 its members.
        silent += [
            f"{m.name}.{f.name}"
            for i, m in enumerate(file.message_type)
            for j, f in enumerate(m.field)
            if (4, i, 2, j) not in told
        ]
        silent += [
            f"{e.name}.{v.name}"
            for i, e in enumerate(file.enum_type)
            for j, v in enumerate(e.value)
            if (5, i, 2, j) not in told
        ]
        silent += [
            f"{s.name}.{r.name}"
            for i, s in enumerate(file.service)
            for j, r in enumerate(s.method)
            if (6, i, 2, j) not in told
        ]
    assert silent == []
