"""The documents match the code: they list every call, error reason and setting with its values."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from codeq.reasons import BY_NUMBER, Reason
from codeq.v1 import task_pb2, task_service_pb2
from codeq_server.auth.access import METHODS
from codeq_server.core.at_limit import DROPPED_ERROR, REPLACED_ERROR
from codeq_server.core.expiry import EXPIRED
from codeq_server.core.purging import PURGED_ERROR
from codeq_server.core.withdrawal import CANCELLED_ERROR
from google.api import annotations_pb2
from google.protobuf.message import Message

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


@pytest.mark.parametrize(
    "message", [task_pb2.Task, task_pb2.TaskSpec, task_service_pb2.ExplainTaskResponse, task_service_pb2.KeyWait]
)
def test_api_document_names_every_field_of_tasks_and_explanations(message: type[Message]) -> None:
    assert [field.json_name for field in message.DESCRIPTOR.fields if f"`{field.json_name}`" not in API] == []


@pytest.mark.parametrize("error", [CANCELLED_ERROR, DROPPED_ERROR, EXPIRED, PURGED_ERROR, REPLACED_ERROR])
def test_api_document_lists_every_error_that_the_server_gives_to_ended_tasks(error: str) -> None:
    [row] = [line for line in API.splitlines() if line.startswith("| `error` | error of a task")]
    assert f"`{error}`" in row


def _shell_commands() -> Iterator[tuple[str, str, str]]:
    """Yields the name of a document, a curl command in it, and all shell code before it."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]):
        before = ""
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), flags=re.DOTALL):
            for command in block.replace("\\\n", " ").splitlines():
                if "curl " in command:
                    yield str(path.relative_to(ROOT)), command, before
                before += command + "\n"


def test_curl_commands_of_the_documents_name_the_type_of_their_bodies() -> None:
    commands = [(name, command) for name, command, _ in _shell_commands() if re.search(r" -d|--data", command)]
    assert len(commands) >= 10
    assert [each for each in commands if not re.search(r"\$JSON|Content-Type: application/json", each[1])] == []


def test_curl_commands_of_the_documents_use_variables_that_are_set_before() -> None:
    unset = [
        (name, variable)
        for name, command, before in _shell_commands()
        for variable in re.findall(r"\$\{?([A-Z_]+)", re.sub(r"'[^']*'", "", command))
        if not re.search(rf"\b{variable}=", before + command)
    ]
    assert unset == []


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
