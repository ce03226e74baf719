"""The documents tell what the code has: every call, error reason and setting, with its values."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from codeq.reasons import BY_NUMBER, Reason
from codeq.v1 import cluster_service_pb2, queue_service_pb2, server_service_pb2, task_service_pb2
from codeq_server.config import keys
from google.api import annotations_pb2

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs/api.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()


def _routes() -> list[str]:
    found = []
    for file in (cluster_service_pb2, queue_service_pb2, server_service_pb2, task_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                verb = rule.WhichOneof("pattern")
                found.append(f"{verb.upper()} {getattr(rule, verb)}".replace("{task_id}", "{id}"))
    return found


@pytest.mark.parametrize("route", _routes())
def test_api_document_has_every_route(route: str) -> None:
    assert f"| `{route}` |" in API


@pytest.mark.parametrize("reason", list(BY_NUMBER.values()), ids=lambda reason: reason.name)
def test_api_document_lists_every_reason_with_its_codes(reason: Reason) -> None:
    again = " yes " if reason.retryable else " "
    assert f"| `{reason.name}` | {reason.grpc_name} | {reason.http_status} |{again}|" in API


@pytest.mark.parametrize("field", dataclasses.fields(keys.Keys), ids=lambda field: field.name)
def test_configuration_document_has_every_setting_with_its_default(field: dataclasses.Field[object]) -> None:
    row = re.search(
        rf"^\| `{keys.file_key(field.name)}` \| `{keys.variable(field.name)}` \| (.*?) \|", CONFIGURATION, re.MULTILINE
    )
    assert row is not None
    if isinstance(field.default, int) and not isinstance(field.default, bool):
        assert row[1].split()[0] == str(field.default)
    elif isinstance(field.default, str) and field.default:
        assert row[1] == f"`{field.default}`"


@pytest.mark.parametrize("field", dataclasses.fields(keys.RaftKeys), ids=lambda field: field.name)
def test_configuration_document_has_every_key_of_raft_with_its_default(field: dataclasses.Field[object]) -> None:
    name = keys.variable(f"raft.{field.name}")
    row = re.search(rf"^\| `{keys.file_key(field.name)}` \| `{name}` \| (.*?) \|", CONFIGURATION, re.MULTILINE)
    assert row is not None
    if isinstance(field.default, int) and not isinstance(field.default, bool):
        assert row[1].split()[0] == str(field.default)


@pytest.mark.parametrize("table", [keys.PersistenceKeys, keys.StaticAuthKeys])
def test_configuration_document_has_every_inner_key(table: type) -> None:
    for field in dataclasses.fields(table):
        assert f"| `{keys.file_key(field.name)}` |" in CONFIGURATION
