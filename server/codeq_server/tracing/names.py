"""Names of spans and attributes, after OpenTelemetry's semantic conventions (1.44).

Those of messaging are still in development, so every name of the server is here, and nowhere else; `tests/tidy` keeps
those of the SDKs to this table.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "codeq"
"""Instrumentation scope of all spans."""

# -- RPC -------------------------------------------------------------------------------------------------------------

RPC_SYSTEM: Final = "rpc.system.name"
GRPC: Final = "grpc"
RPC_METHOD: Final = "rpc.method"
"""Fully qualified, such as codeq.v1.TaskService/CreateTask."""
RPC_STATUS: Final = "rpc.response.status_code"
"""Name of the gRPC code, such as NOT_FOUND."""

# -- HTTP ------------------------------------------------------------------------------------------------------------

HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
HTTP_RESEND_COUNT: Final = "http.request.resend_count"
"""Number of attempts before this one; left out for the first."""
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

ERROR_TYPE: Final = "error.type"

# -- messaging -------------------------------------------------------------------------------------------------------

MESSAGING_SYSTEM: Final = "messaging.system"
CODEQ: Final = "codeq"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
"""The command."""
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
"""The task's id."""
MESSAGING_OPERATION: Final = "messaging.operation.name"
WAIT: Final = "wait"
"""From the acceptance of a task to its first delivery, or to its end."""
RUN: Final = "run"
"""From the last delivery of a task to its end."""
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
PROCESS: Final = "process"
"""Name and type of the operation of a handler, whose spans the SDKs make."""

# -- our own ---------------------------------------------------------------------------------------------------------

TENANT: Final = "codeq.tenant"
WORKER: Final = "codeq.worker"
DELIVERIES: Final = "codeq.task.deliveries"
"""Number of deliveries of a task that has ended."""
ATTEMPTS: Final = "codeq.task.attempts"
"""Number of the delivery that a handler processes, from 1."""
STATUS: Final = "codeq.task.status"
REASON: Final = "codeq.error.reason"
REQUEST_ID: Final = "codeq.request.id"
DELIVERY_ID: Final = "codeq.webhook.delivery_id"
"""Id of a callback, the same for all its attempts."""
