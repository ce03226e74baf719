"""Settings of requests to URLs of tenants: result callbacks and the signals of subscriptions."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from codeq_server.config.declaration import setting
from codeq_server.config.forms import Boolean, Form, Listed, Text, Whole

NETWORKS_MAX: Final = 256
"""Maximum number of configured networks, of names and of ranges of ports."""

SECRET_MIN: Final = 16
SECRET_MAX: Final = 128
"""Length of a secret that signs requests, in characters."""

_NAME: Final = re.compile(r"(\*\.)?[a-z0-9_][a-z0-9_.-]{0,252}")
_PORTS: Final = re.compile(r"[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?")


class ProxyUrl(Form[str]):
    """The URL of an HTTP proxy; empty: none."""

    expects = values = "an http:// URL of a host and a port"
    nothing = ""

    def parse(self, value: object) -> str | None:
        """Returns the URL."""
        try:
            parts = urlsplit(value) if isinstance(value, str) else None
            is_plain = parts is not None and parts.scheme == "http" and parts.hostname and parts.port
        except ValueError:
            return None
        return str(value) if value == "" or is_plain else None


def _network(text: str) -> str | None:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        return None


def _host(text: str) -> str | None:
    return text.lower() if _NAME.fullmatch(text.lower()) else None


def _ports(text: str) -> str | None:
    least, _, most = text.partition("-")
    return text if _PORTS.fullmatch(text) and int(least) <= int(most or least) <= 65535 else None


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """Settings of requests to URLs of tenants, a part of a server's; without slots, because it is a second base."""

    webhook_hmac_secret: str = setting(
        Text(SECRET_MIN, SECRET_MAX),
        "",
        "secret that signs requests to URLs for which none is set at run time",
        unset="they are not signed",
        secret=True,
    )
    webhook_require_https: bool = setting(Boolean(), False, "reject URLs of `http://`")
    webhook_allowed_networks: tuple[str, ...] = setting(
        Listed(_network, "networks", "10.1.0.0/16 and fd00:1::/32", NETWORKS_MAX),
        (),
        "networks that requests may reach although they are [not public](security.md#requests-to-urls-of-tenants)",
    )
    webhook_allowed_hosts: tuple[str, ...] = setting(
        Listed(_host, "names", "hooks.internal and *.hooks.internal", NETWORKS_MAX),
        (),
        "hosts that requests may reach at any address",
    )
    webhook_allowed_ports: tuple[str, ...] = setting(
        Listed(_ports, "ports", "443 and 8000-8999", NETWORKS_MAX),
        ("80", "443", "1024-65535"),
        "ports that URLs may name",
    )
    webhook_proxy: str = setting(
        ProxyUrl(),
        "",
        "HTTP proxy for all requests; it then resolves names and has to refuse internal addresses itself",
        secret=True,
    )
    webhook_timeout_seconds: int = setting(Whole(1, 60, "seconds"), 15, "longest time of a request in all")
    result_webhook_max_attempts: int | None = setting(
        Whole(1, 30), None, "attempts of a result callback", unset="13, over 28 hours"
    )
    result_webhook_base_backoff_seconds: int | None = setting(
        Whole(1, 3600, "seconds"), None, "wait after the first attempt, doubled after each further one", unset="2"
    )
    result_webhook_max_backoff_seconds: int | None = setting(
        Whole(1, 36_000, "seconds"), None, "longest wait between two attempts", unset="36000 (10 hours)"
    )
    webhook_disable_after_seconds: int | None = setting(
        Whole(60, 30 * 86_400, "seconds"),
        None,
        "time after which a host is [paused](webhooks.md#hosts-that-fail) if every callback to it has failed meanwhile",
        unset="none is",
    )
    subscription_min_interval_seconds: int = setting(
        Whole(0, 3600, "seconds"), 5, "shortest time between two signals of a subscription that names none; 0: none"
    )
    subscription_cleanup_interval_seconds: int = setting(
        Whole(1, 86_400, "seconds"),
        60,
        "accepted without effect: a subscription ends when its time is over",
        ignored=True,
    )
