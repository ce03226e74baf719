"""Settings of what operators see of a server: metrics, traces and profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from codeq_server.config.addresses import Address, Listener, is_loopback
from codeq_server.config.declaration import setting
from codeq_server.config.forms import Boolean, Form, Text

_OTLP: Final = (
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "COMPRESSION",
    "ENDPOINT",
    "HEADERS",
    "INSECURE",
    "TIMEOUT",
)

TELEMETRY_VARIABLES: Final = frozenset(
    {
        *(f"OTEL_EXPORTER_OTLP_{each}" for each in _OTLP),
        *(f"OTEL_EXPORTER_OTLP_TRACES_{each}" for each in _OTLP),
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_BSP_SCHEDULE_DELAY",
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SDK_DISABLED",
        "OTEL_SERVICE_NAME",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_EVENT_COUNT_LIMIT",
        "OTEL_SPAN_LINK_COUNT_LIMIT",
        "OTEL_TRACES_EXPORTER",
    }
)
"""Variables of OpenTelemetry that affect a server which exports traces."""

_SWITCHES_OFF: Final = {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"}
"""Variables with which OpenTelemetry is told to export no spans, and the value that says so."""


def telemetry_off_by(env: Mapping[str, str]) -> str:
    """Returns the variable of OpenTelemetry that forbids to export spans; empty: none does."""
    forbids = (name for name, value in _SWITCHES_OFF.items() if env.get(name, "").strip().lower() == value)
    return next(forbids, "")


class Fraction(Form[float]):
    """A number from 0 to 1."""

    expects = values = "a number from 0 to 1"

    def parse(self, value: object) -> float | None:
        """Returns the number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            return None
        return float(value)

    def _from_text(self, text: str) -> object:
        try:
            return float(text) if text.isascii() else text
        except ValueError:
            return text


class CollectorUrl(Form[str]):
    """The URL of a collector; empty: none is given."""

    expects = values = "an http:// or https:// URL without a user, or HOST:PORT"
    nothing = ""

    def parse(self, value: object) -> str | None:
        """Returns the URL."""
        if not isinstance(value, str) or any(each.isspace() for each in value):
            return None
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            has_place = parts.hostname and parts.port != 0 and "@" not in parts.netloc
            is_valid = parts.scheme in {"http", "https"} and has_place
        except ValueError:
            return None
        return value if value == "" or is_valid else None


class LoopbackListener(Listener):
    """An address to listen on that only this machine reaches."""

    expects = "host:port, with localhost or a loopback address as host"
    values = "`host:port` on loopback"

    def parse(self, value: object) -> Address | None:
        """Returns the address."""
        address = super().parse(value)
        return address if address is not None and is_loopback(address.host.strip("[]")) else None


@dataclass(frozen=True, kw_only=True)
class TelemetrySettings:
    """Settings of metrics, traces and profiles, a part of a server's; without slots, because it is a further base."""

    codeq_pprof: bool = setting(
        Boolean(),
        False,
        "serve [profiles](operations.md#profiles), and the level of the log, on a port of this machine",
    )
    codeq_pprof_addr: Address = setting(
        LoopbackListener(), Address("127.0.0.1", 6060), "where; an address that only this machine reaches"
    )
    metrics_tenant_label: bool = setting(
        Boolean(),
        False,
        "whether [metrics of commands](operations.md#metrics-by-command) have the label `tenant`",
    )
    tracing_enabled: bool = setting(
        Boolean(),
        False,
        "export [traces](operations.md#traces) over OTLP (gRPC); needs `opentelemetry-sdk` and "
        "`opentelemetry-exporter-otlp-proto-grpc`",
    )
    tracing_otlp_endpoint: str = setting(
        CollectorUrl(), "", "where the collector listens", unset="`OTEL_EXPORTER_OTLP_ENDPOINT`, or `localhost:4317`"
    )
    tracing_otlp_insecure: bool | None = setting(
        Boolean(),
        None,
        "connect to the collector without TLS",
        unset="the scheme of the URL decides; HOST:PORT has TLS",
    )
    tracing_sample_ratio: float = setting(
        Fraction(),
        1.0,
        "part of the traces that begin here which are recorded; the caller decides about those that it begins",
    )
    tracing_service_name: str = setting(
        Text(0, 256), "", "`service.name` of the spans", unset="`OTEL_SERVICE_NAME`, or `codeq`"
    )
