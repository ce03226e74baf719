"""The documents match the code: they list every call, error reason and setting with its values."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from codeq.reasons import BY_NUMBER, Reason
from codeq_server.auth.access import METHODS
from google.api import annotations_pb2

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs/api.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
fresh = runpy.run_path(str(ROOT / "docs/generate.py"))["fresh"]
fresh_rights = runpy.run_path(str(ROOT / "docs/rights.py"))["fresh"]


def _routes() -> list[str]:
    rules = [method.GetOptions().Extensions[annotations_pb2.http] for method in METHODS]
    verbs = [(rule, rule.WhichOneof("pattern")) for rule in rules if rule.WhichOneof("pattern")]
    return [f"{verb.upper()} {getattr(rule, verb)}".replace("{task_id}", "{id}") for rule, verb in verbs]


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


def test_security_document_has_the_matrix_that_the_protos_give() -> None:
    assert fresh_rights(SECURITY) == SECURITY, "run `make generate`"


@pytest.mark.parametrize(("old", "new"), [("`NOT_OPERATOR` |", "yes |"), ("| CreateTask |", "| MakeTask |")])
def test_stale_matrix_of_the_security_document_is_written_anew(old: str, new: str) -> None:
    assert old in SECURITY
    assert fresh_rights(SECURITY.replace(old, new, 1)) == SECURITY


def test_security_document_without_the_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the matrix"):
        fresh_rights(SECURITY.replace("<!-- rights -->", ""))


@pytest.mark.parametrize("language", ["python", "go"])
def test_reference_of_an_sdk_is_what_its_source_gives(language: str) -> None:
    written = runpy.run_path(str(ROOT / f"docs/reference_{language}.py"))["fresh"]()
    assert (ROOT / f"docs/reference/{language}.md").read_text() == written, "run `make generate`"
