"""Completes a task with the client that openapi-python-client generated: one_task.py URL TOKEN COMMAND."""

from __future__ import annotations

import sys

from generated.api.task_service import (
    task_service_claim_task,
    task_service_create_task,
    task_service_get_task_result,
    task_service_submit_result,
)
from generated.client import AuthenticatedClient
from generated.models import (
    GetTaskResultResponse,
    Task,
    TaskServiceClaimTaskBody,
    TaskServiceSubmitResultBody,
    TaskServiceSubmitResultBodyStatus,
    TaskSpec,
)

url, token, command = sys.argv[1:]
client = AuthenticatedClient(url, token)
created = task_service_create_task.sync(client=client, body=TaskSpec(command, payload={"n": 20}))
assert isinstance(created, Task), created
claim = TaskServiceClaimTaskBody(commands=[command], wait_seconds=20)
claimed = task_service_claim_task.sync(client=client, body=claim)
assert isinstance(claimed, Task), claimed
assert (claimed.id, claimed.payload) == (created.id, {"n": 20})
outcome = TaskServiceSubmitResultBody(
    TaskServiceSubmitResultBodyStatus.COMPLETED, lease_token=claimed.lease_token, result={"n": 21}
)
task_service_submit_result.sync(claimed.id, client=client, body=outcome)
ended = task_service_get_task_result.sync(claimed.id, client=client, wait_seconds=20)
assert isinstance(ended, GetTaskResultResponse), ended
print(ended.task.status, ended.result.result["n"])
