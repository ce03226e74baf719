"""The documents match the code: they list every call, error reason and setting with its values."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from codeq.reasons import BY_NUMBER, Reason
from codeq.v1 import cluster_service_pb2, queue_service_pb2, server_service_pb2, task_service_pb2
from google.api import annotations_pb2

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs/api.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
fresh = runpy.run_path(str(ROOT / "docs/generate.py"))["fresh"]


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
def test_api_document_lists_every_route(route: str) -> None:
    assert f"| `{route}` |" in API


@pytest.mark.parametrize("reason", list(BY_NUMBER.values()), ids=lambda reason: reason.name)
def test_api_document_lists_every_reason_with_its_codes(reason: Reason) -> None:
    again = " yes " if reason.retryable else " "
    assert f"| `{reason.name}` | {reason.grpc_name} | {reason.http_status} |{again}|" in API


def test_tables_in_the_configuration_document_match_the_declarations() -> None:
    assert fresh(CONFIGURATION) == CONFIGURATION, "run `make generate`"


@pytest.mark.parametrize(("old", "new"), [("8080", "8081"), ("| `port` |", "| `prot` |"), ("lowest level", "level")])
def test_stale_table_in_the_configuration_document_is_regenerated(old: str, new: str) -> None:
    assert fresh(CONFIGURATION.replace(old, new, 1)) == CONFIGURATION


def test_configuration_document_without_a_table_is_rejected() -> None:
    with pytest.raises(ValueError, match="no table of RaftSettings"):
        fresh(CONFIGURATION.replace("settings: RaftSettings", "elsewhere"))
