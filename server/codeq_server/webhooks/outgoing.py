"""All that a process needs for requests to URLs of tenants."""

from __future__ import annotations

from typing import NamedTuple

from codeq_server.config import Settings
from codeq_server.webhooks.guard import Guard, guard_of
from codeq_server.webhooks.sender import Sender, SenderOptions


class Outgoing(NamedTuple):
    """The sender of a process, and the settings of its users.

    Attributes:
        sender: Makes requests.
        guard: Where they may go.
        secret: Signs requests to URLs for which no secret is set at run time; empty: they are not signed.
        signal_interval_s: Shortest time between two signals of a subscription that names none, in seconds.
    """

    sender: Sender
    guard: Guard
    secret: str
    signal_interval_s: int


def outgoing_of(settings: Settings) -> Outgoing:
    """Returns what the settings ask for; its sender opens nothing before the first request."""
    guard = guard_of(settings)
    options = SenderOptions(
        guard, settings.rate_limit.webhook.rate, float(settings.webhook_timeout_seconds), settings.webhook_proxy
    )
    return Outgoing(Sender(options), guard, settings.webhook_hmac_secret, settings.subscription_min_interval_seconds)
