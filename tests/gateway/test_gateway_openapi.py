"""The OpenAPI document describes the REST API that the gateway serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from codeq_gateway import openapi
from codeq_gateway.routes import read_operations
from google.api import annotations_pb2
from served_gateway import Served
from task_double import SERVICES

DOCUMENT = json.loads(openapi.document(list(read_operations(SERVICES)), "1.2.3"))
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    pytest.param(described, id=described["operationId"])
    for path in DOCUMENT["paths"].values()
    for described in path.values()
]


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """Yields every object within a JSON value."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from _objects(part)


async def test_document_is_served(served: Served) -> None:
    answer = await served.http.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT


def test_document_declares_bearer_authentication() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert DOCUMENT["security"] == [{"bearer": []}]
    assert DOCUMENT["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}


@pytest.mark.parametrize(
    ("operation", "scopes"),
    [
        ("TaskService_CreateTask", [[]]),
        ("TaskService_ClaimTask", [["codeq:claim"]]),
        ("TaskService_GetTask", [[]]),
        ("TaskService_RedriveTask", [["codeq:admin"], ["codeq:operator"]]),
        ("ServerService_BackUp", [["codeq:operator"]]),
        ("QueueService_PauseQueue", [["codeq:admin"], ["codeq:operator"]]),
        ("QueueService_ListQueues", [["codeq:admin"], ["codeq:operator"], ["codeq:viewer"]]),
    ],
)
def test_operation_names_the_scopes_of_which_a_token_needs_one(operation: str, scopes: list[list[str]]) -> None:
    (described,) = [
        each for path in DOCUMENT["paths"].values() for each in path.values() if each["operationId"] == operation
    ]
    assert described["security"] == [{"bearer": each} for each in scopes]


def test_document_has_every_http_rule() -> None:
    count = 0
    for service in SERVICES:
        for method in service.methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            verb = rule.WhichOneof("pattern")
            if verb:
                described = DOCUMENT["paths"][getattr(rule, verb)][verb]
                assert described["operationId"] == f"{service.name}_{method.name}"
                assert ("requestBody" in described) == bool(rule.body)
                count += 1
    assert count == len(OPERATIONS) >= 14


def test_references_resolve_and_all_schemas_are_used() -> None:
    names = {found["$ref"].removeprefix("#/components/schemas/") for found in _objects(DOCUMENT) if "$ref" in found}
    assert names == set(SCHEMAS)


@pytest.mark.parametrize("described", OPERATIONS)
def test_every_operation_is_fully_described(described: dict[str, Any]) -> None:
    assert described["summary"]
    assert described["tags"][0] in [tag["name"] for tag in DOCUMENT["tags"]]
    assert described["responses"]["default"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Error"
    }
    for parameter in described["parameters"]:
        assert parameter["in"] in {"path", "query", "header"}
        assert parameter["required"] == (parameter["in"] == "path")
        assert parameter["description"]
        assert parameter["schema"]["type"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_fully_described(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["type"] == "object"
    assert schema["description"]
    assert all(described["description"] for described in schema["properties"].values())
    assert set(schema.get("required", [])) <= set(schema["properties"])


def test_path_parameters_match_the_path_variables() -> None:
    for template, path in DOCUMENT["paths"].items():
        for described in path.values():
            names = [parameter["name"] for parameter in described["parameters"] if parameter["in"] == "path"]
            assert [part[1:-1] for part in template.split("/") if part.startswith("{")] == names


def test_limits_match_the_protos() -> None:
    spec = SCHEMAS["TaskSpec"]
    assert spec["required"] == ["command"]
    assert spec["additionalProperties"] is False
    command = spec["properties"]["command"]
    assert (command["minLength"], command["maxLength"]) == (1, 128)
    assert command["pattern"] == "^[A-Za-z0-9][A-Za-z0-9._-]*$"
    priority = spec["properties"]["priority"]
    assert (priority["minimum"], priority["maximum"], priority["default"]) == (0, 9, 0)
    claim = DOCUMENT["paths"]["/v1/codeq/tasks/claim"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert claim["properties"]["commands"]["maxItems"] == 256
    assert claim["properties"]["commands"]["items"]["maxLength"] == 128
    page_size = DOCUMENT["paths"]["/v1/codeq/admin/queues"]["get"]["parameters"][0]
    assert (page_size["name"], page_size["schema"]["maximum"]) == ("pageSize", 500)


def test_schemas_match_the_json_that_the_api_sends() -> None:
    task = SCHEMAS["Task"]
    assert "COMPLETED" in task["properties"]["status"]["enum"]
    assert set(task["properties"]["payload"]) == {"description"}
    assert task["properties"]["leaseToken"]["type"] == "string"
    assert task["properties"]["createdAt"]["format"] == "date-time"
    assert "payload" in task["required"]
    assert "leaseToken" not in task["required"]
    assert "attemptHistory" not in task["required"]
    result = DOCUMENT["paths"]["/v1/codeq/tasks/{task_id}/result"]["post"]
    body = result["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["status"]["enum"] == ["COMPLETED", "FAILED"]
    assert "taskId" not in body["properties"]
    assert body["properties"]["leaseToken"]["type"] == ["string", "null"]
    assert SCHEMAS["Queue"]["properties"]["ready"]["type"] == "integer"


def test_operations_document_their_reply_statuses() -> None:
    assert set(DOCUMENT["paths"]["/v1/codeq/tasks"]["post"]["responses"]) == {"200", "202", "307", "default"}
    assert set(DOCUMENT["paths"]["/v1/codeq/tasks/claim"]["post"]["responses"]) == {"200", "204", "307", "default"}
    assert "content" not in DOCUMENT["paths"]["/v1/codeq/tasks/claim"]["post"]["responses"]["204"]
    at_limit = {"scope", "operation", "subject", "retryAfterSeconds"}
    at_quota = {"quota", "limit"}
    assert set(SCHEMAS["Error"]["properties"]) == {"error", "code", "reason", "details", "leader"} | at_limit | at_quota
    assert "TASK_NOT_FOUND" in SCHEMAS["Error"]["properties"]["reason"]["enum"]


def test_operations_document_consistency_and_forwarding() -> None:
    reads, writes = (
        {parameter["name"] for parameter in DOCUMENT["paths"][path][method]["parameters"]}
        for path, method in (("/v1/codeq/tasks/{task_id}", "get"), ("/v1/codeq/tasks", "post"))
    )
    assert {"consistency", "X-CodeQ-Forward"} <= reads
    assert "X-CodeQ-Forward" in writes
    assert "consistency" not in writes


def test_document_states_its_url_and_body_limits() -> None:
    assert DOCUMENT["servers"][0]["url"] == "/"
    for path, size in (("/v1/codeq/tasks", 1_114_112), ("/v1/codeq/tasks/batch", 8_454_144)):
        assert str(size) in DOCUMENT["paths"][path]["post"]["requestBody"]["description"]


def test_every_value_has_one_type_and_only_optional_values_may_be_null() -> None:
    for schema in _objects(DOCUMENT["components"]["schemas"]):
        for name, described in schema.get("properties", {}).items():
            kind = described.get("type", "any") if isinstance(described, dict) else "any"
            if isinstance(kind, list):
                assert kind[1:] == ["null"]
                assert name not in schema.get("required", [])


def test_enums_omit_the_unspecified_value() -> None:
    for schema in _objects(DOCUMENT):
        assert "UNSPECIFIED" not in schema.get("enum", [])


def test_required_fields_and_bodies_match_what_the_server_requires() -> None:
    required = {
        described["operationId"]: described["requestBody"]["required"]
        for path in DOCUMENT["paths"].values()
        for described in path.values()
        if "requestBody" in described
    }
    assert {name for name, needed in required.items() if needed} == {
        "TaskService_CreateTask",
        "TaskService_BatchCreateTasks",
        "TaskService_ClaimTasks",
        "TaskService_SubmitResult",
        "TaskService_BatchSubmitResults",
        "TaskService_CleanupTasks",
        "ServerService_BackUp",
    }
    assert SCHEMAS["NewArtifact"]["required"] == ["name"]


def test_created_task_links_to_operations_on_its_id() -> None:
    for path, status in (("/v1/codeq/tasks", "202"), ("/v1/codeq/tasks/claim", "200")):
        links = DOCUMENT["paths"][path]["post"]["responses"][status]["links"]
        assert links["SubmitResult"]["operationId"] == "TaskService_SubmitResult"
        assert links["SubmitResult"]["parameters"] == {"task_id": "$response.body#/id"}
        assert "GetTaskArtifact" not in links


@pytest.mark.parametrize("number", ["2.0", "2e0", "0.2e1"])
async def test_integer_is_accepted_in_decimal_and_exponent_notation(served: Served, number: str) -> None:
    body = f'{{"command":"A","priority":{number}}}'
    answer = await served.http.post("/v1/codeq/tasks", content=body, headers={"content-type": "application/json"})
    assert served.double.requests[0].spec.priority == 2
    assert answer.status_code == 202
    await served.http.get(f"/v1/codeq/tasks?pageSize={number}")
    assert served.double.requests[1].page_size == 2


@pytest.mark.parametrize("number", ["2.5", "1e10", "-2147483649", "2147483648.0"])
async def test_number_outside_its_integer_type_is_rejected(served: Served, number: str) -> None:
    answer = await served.http.post("/v1/codeq/tasks", content=f'{{"command":"A","priority":{number}}}')
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "priority")


def test_error_messages_use_json_field_names() -> None:
    run_at = SCHEMAS["TaskSpec"]["properties"]["runAt"]["description"]
    assert "delaySeconds" in run_at
    for described in _objects(DOCUMENT):
        for text in (described.get("description"), described.get("summary")):
            assert not isinstance(text, str) or "_seconds" not in text
