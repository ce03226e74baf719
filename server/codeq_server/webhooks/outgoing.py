"""All that a process needs for requests to URLs of tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from codeq_server.config import Settings
from codeq_server.config.webhook_settings import WebhookSettings
from codeq_server.core.endpoints import Endpoints
from codeq_server.webhooks.guard import Guard, guard_of
from codeq_server.webhooks.sender import Sender, SenderOptions

if TYPE_CHECKING:
    from codeq_server.tracing.callbacks import CallbackSpans

DELAYS_SECONDS: Final = (2, 4, 8, 16, 32, 120, 600, 1800, 7200, 18_000, 36_000, 36_000)
"""Delays before the second and further attempts of a callback."""
ATTEMPTS_SECONDS_MAX: Final = 3 * 86_400
"""Time within which the last attempt begins, whatever the settings say."""


class Outgoing(NamedTuple):
    """The sender of a process, and the settings of its users.

    Attributes:
        sender: Makes requests.
        guard: Where they may go.
        secret: Signs requests to URLs for which no secret is set at run time; empty: they are not signed.
        callback_delays_ms: Delays before further attempts of a callback; after the last one it is given up.
        signal_interval_s: Shortest time between two signals of a subscription that names none, in seconds.
        disable_after_ms: Time after which a host is paused if all callbacks of a tenant to it have failed meanwhile; 0:
            none is.
        spans: Makes the spans of callbacks; None: tracing is not enabled.
    """

    sender: Sender
    guard: Guard
    secret: str
    callback_delays_ms: tuple[int, ...]
    signal_interval_s: int
    disable_after_ms: int = 0
    spans: CallbackSpans | None = None

    def secrets_for(self, endpoints: Endpoints, tenant: str, url: str) -> list[str]:
        """Returns the secrets that sign a tenant's requests to a URL, newest first; empty: they are not signed."""
        secrets = endpoints.secrets(tenant, url.partition("?")[0].partition("#")[0])
        return secrets or ([self.secret] if self.secret else [])


def outgoing_of(settings: Settings, spans: CallbackSpans | None = None) -> Outgoing:
    """Returns what the settings ask for; its sender opens nothing before the first request.

    Args:
        settings: Settings of the process.
        spans: Makes the spans of callbacks; None: tracing is not enabled.
    """
    guard = guard_of(settings)
    options = SenderOptions(
        guard, settings.rate_limit.webhook.rate, float(settings.webhook_timeout_seconds), settings.webhook_proxy
    )
    return Outgoing(
        Sender(options),
        guard,
        settings.webhook_hmac_secret,
        callback_delays(settings),
        settings.subscription_min_interval_seconds,
        (settings.webhook_disable_after_seconds or 0) * 1000,
        spans,
    )


def callback_delays(settings: WebhookSettings) -> tuple[int, ...]:
    """Returns the delays in milliseconds before the further attempts of a callback.

    Without settings there are twelve, over 28 hours. The settings replace them by delays that double up to a maximum;
    attempts that would begin after three days are left out.
    """
    most, base, longest = (
        settings.result_webhook_max_attempts,
        settings.result_webhook_base_backoff_seconds,
        settings.result_webhook_max_backoff_seconds,
    )
    if most is None and base is None and longest is None:
        return tuple(seconds * 1000 for seconds in DELAYS_SECONDS)
    found: list[int] = []
    for step in range((most or len(DELAYS_SECONDS) + 1) - 1):
        delay = min((base or DELAYS_SECONDS[0]) << step, longest or DELAYS_SECONDS[-1])
        if sum(found) + delay > ATTEMPTS_SECONDS_MAX:
            break
        found.append(delay)
    return tuple(seconds * 1000 for seconds in found)
