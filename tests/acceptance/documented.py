"""The server environment of the user guide "Run In Docker"."""

from __future__ import annotations

from typing import Final

TOKEN: Final = "dev-token"

ENVIRONMENT: Final = {
    "PORT": "8080",
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "json",
    "PERSISTENCE_PROVIDER": "pebble",
    "PERSISTENCE_CONFIG": '{"path":"/var/lib/codeq/pebble"}',
    "PRODUCER_AUTH_PROVIDER": "static",
    "PRODUCER_AUTH_CONFIG": (
        '{"token":"dev-token","subject":"producer-dev","raw":{"role":"ADMIN","tenantId":"dev-tenant"}}'
    ),
    "WORKER_AUTH_PROVIDER": "static",
    "WORKER_AUTH_CONFIG": (
        '{"token":"dev-token","subject":"worker-dev","scopes":["codeq:claim","codeq:heartbeat","codeq:abandon",'
        '"codeq:nack","codeq:result","codeq:subscribe"],"eventTypes":["*"],"raw":{"tenantId":"dev-tenant"}}'
    ),
}
"""Variables of the guide's codeq.env; tests change the store's path and the ports."""
