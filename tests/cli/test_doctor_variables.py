"""codeq doctor knows every variable of the server, and takes no variable of other programs for one of them."""

from __future__ import annotations

import pytest
from codeq_cli.doctor.configuration import check_variables
from codeq_server.config import foreign
from codeq_server.config.sources import CLIENT_VARIABLES, VARIABLES
from codeq_server.config.telemetry_settings import TELEMETRY_VARIABLES
from opentelemetry import environment_variables as api
from opentelemetry.sdk import environment_variables

OTHERS = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TERM",
    "USER",
    "SHELL",
    "PWD",
    "HOSTNAME",
    "TMPDIR",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "GRPC_VERBOSITY",
    "GRPC_TRACE",
    "GRPC_ENABLE_FORK_SUPPORT",
    "GRPC_DNS_RESOLVER",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "VIRTUAL_ENV",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LOGNAME",
    "LOGS_DIRECTORY",
    "STATE_DIRECTORY",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_PORT",
    "POD_NAME",
    "POD_NAMESPACE",
    "NODE_NAME",
    "AWS_REGION",
    "WORKER_TOKEN",
    "SERVER_NAME",
    "SERVER_PORT",
    "DEFAULT_REGION",
    "MAX_CONNECTIONS",
    "LOCAL_USER",
    "RATE",
    "METRICS_PORT",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_PYTHON_LOG_LEVEL",
]
"""Variables that a server's environment may have besides its own."""


@pytest.mark.parametrize("name", sorted(VARIABLES.keys() | CLIENT_VARIABLES | foreign.VARIABLES | TELEMETRY_VARIABLES))
def test_no_variable_that_is_used_is_taken_for_misspelled(name: str) -> None:
    assert [*check_variables({name: "1"}, tracing=True)] == []


@pytest.mark.parametrize("name", OTHERS)
def test_variables_of_other_programs_are_left_alone(name: str) -> None:
    assert [*check_variables({name: "value"}, tracing=True)] == []


def test_variables_that_describe_a_service_named_like_a_setting_are_left_alone() -> None:
    links = {"WORKER_STREAM_SERVICE_HOST": "10.0.0.1", "LOG_LEVEL_PORT": "tcp://10.0.0.1:80"}
    assert [*check_variables(links)] == []


def test_the_followed_variables_of_opentelemetry_exist() -> None:
    existing = {name for module in (api, environment_variables) for name in dir(module) if name.startswith("OTEL_")}
    assert existing >= TELEMETRY_VARIABLES
