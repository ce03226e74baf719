"""Changes what a tenant has set for the receivers of its webhooks."""

from __future__ import annotations

from collections.abc import Sequence

from codeq_internal.v1 import rows_pb2

from . import tenant_keys
from .clock import Now
from .endpoints import ENDPOINTS_MAX, FAILING_MAX
from .errors import Reason, Rejection
from .shard import Shard


def set_secrets(shard: Shard, tenant: str, endpoint: str, secrets: Sequence[str], now: Now) -> None:
    """Sets the secrets for an endpoint, or for all (""); no secrets: those for all apply.

    Raises:
        Rejection: LIMIT_REACHED.
    """
    _put(shard, tenant, endpoint, rows_pb2.EndpointRow(secrets=secrets, changed_ms=now.wall_ms) if secrets else None)


def pause_host(shard: Shard, tenant: str, host: str, now: Now, *, paused: bool) -> None:
    """Pauses the callbacks of a tenant to a host, or resumes them.

    Raises:
        Rejection: LIMIT_REACHED.
    """
    if shard.endpoints.is_paused(tenant, host) != paused:
        _put(shard, tenant, host, rows_pb2.EndpointRow(paused=True, changed_ms=now.wall_ms) if paused else None)


def note_attempt(shard: Shard, tenant: str, host: str, now: Now, *, delivered: bool, disable_after_ms: int) -> bool:
    """Records since when every attempt of a tenant's callbacks to a host has failed, and pauses the host in the end.

    A host that fails has a row, which the first success deletes.

    Args:
        shard: The shard.
        tenant: The tenant.
        host: The host.
        now: The time.
        delivered: Whether this attempt was accepted.
        disable_after_ms: Time without a success after which the host is paused.

    Returns:
        Whether the host is paused by this attempt.
    """
    row = shard.endpoints.get(tenant, host)
    if row is None:
        if not delivered and len(shard.endpoints.of(tenant)) < FAILING_MAX:
            _put(shard, tenant, host, rows_pb2.EndpointRow(failing_since_ms=now.wall_ms, changed_ms=now.wall_ms))
    elif not row.paused and delivered:
        _put(shard, tenant, host, None)
    elif not row.paused and now.wall_ms - row.failing_since_ms >= disable_after_ms:
        paused = rows_pb2.EndpointRow(
            paused=True, disabled=True, failing_since_ms=row.failing_since_ms, changed_ms=now.wall_ms
        )
        _put(shard, tenant, host, paused)
        return True
    return False


def _put(shard: Shard, tenant: str, name: str, row: rows_pb2.EndpointRow | None) -> None:
    there = shard.endpoints.of(tenant)
    if row is None and name not in there:
        return
    if row is not None and name not in there and len(there) >= ENDPOINTS_MAX:
        raise Rejection(
            Reason.LIMIT_REACHED, f"the tenant has settings for {ENDPOINTS_MAX} endpoints and hosts, the limit"
        )
    shard.batch.rows[tenant_keys.endpoint_key(tenant, name)] = None if row is None else row.SerializeToString()
    shard.endpoints.put(tenant, name, row)
