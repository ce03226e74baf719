"""TenantService: what tenants use, and their limits."""

from __future__ import annotations

from typing import Final

from codeq.v1 import tenant_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import invalid_field
from codeq_server.core.limits import Limits, Rate
from codeq_server.core.shard import Shard
from codeq_server.core.tenants import DEFAULT
from codeq_server.core.usage import list_tenants, set_limits, tenant_row, usage_of
from codeq_server.engine.admission import QUEUES_PER_COST
from codeq_server.engine.runner import ShardRunner

from .auditing import Act, State
from .deciding import decide
from .page_tokens import last_name, page_token
from .streams import StreamRegistry

PAGE_DEFAULT: Final = 100

_FIELDS: Final = {field.json_name: field.name for field in pb.TenantLimits.DESCRIPTOR.fields}
"""Names of the limits by their names in JSON."""


class TenantService:
    """Reports and limits tenants. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner, streams: StreamRegistry) -> None:
        self._runner = runner
        self._streams = streams

    async def ListTenants(self, claims: Claims, request: pb.ListTenantsRequest) -> pb.ListTenantsResponse:  # noqa: N802, ARG002
        """Returns a page of tenants."""
        count = request.page_size or PAGE_DEFAULT
        after = last_name(request.page_token, "tenants")
        self._runner.now()  # raises if the runner no longer decides
        names, following = list_tenants(self._runner.shard, after, count)
        response = pb.ListTenantsResponse(tenants=[self._message(name) for name in names])
        if following:
            response.next_page_token = page_token(following.encode(), "tenants")
        await self._runner.wait_durable()
        return response

    async def GetTenant(self, claims: Claims, request: pb.GetTenantRequest) -> pb.GetTenantResponse:  # noqa: N802, ARG002
        """Returns one tenant."""
        return pb.GetTenantResponse(tenant=await self._told(request.name))

    async def UpdateTenant(  # noqa: N802
        self,
        claims: Claims,  # noqa: ARG002
        request: pb.UpdateTenantRequest,
        act: Act,
    ) -> pb.UpdateTenantResponse:
        """Changes limits of a tenant, or those of all tenants without limits of their own."""
        self._runner.now()  # raises if the runner no longer decides
        shard = self._runner.shard
        limits = _own(shard, request.name)
        before = _state(limits)
        for index, json_name in enumerate(request.inherit):
            name = _FIELDS.get(json_name)
            if name is None:
                raise invalid_field(f"inherit[{index}]", f"must be one of {', '.join(_FIELDS)}")
            if request.limits.HasField(name):
                raise invalid_field(f"inherit[{index}]", "is also among the limits to set")
            limits.ClearField(name)
        for field, value in request.limits.ListFields():
            if field.message_type is not None:
                getattr(limits, field.name).CopyFrom(value)
            else:
                setattr(limits, field.name, value)
        row = rows_pb2.LimitsRow.FromString(limits.SerializeToString())
        decide(self._runner, lambda: set_limits(shard, request.name, row))
        act.record(self._runner, before=before, after=_state(limits))
        return pb.UpdateTenantResponse(tenant=await self._told(request.name))

    async def GetUsage(self, claims: Claims, request: pb.GetUsageRequest) -> pb.GetUsageResponse:  # noqa: N802, ARG002
        """Returns what the caller's tenant uses, and its limits."""
        queues = len(self._runner.shard.used_by(claims.tenant_id).numbers)
        self._runner.admission.charge(claims.tenant_id, queues // QUEUES_PER_COST)
        return pb.GetUsageResponse(tenant=await self._told(claims.tenant_id))

    async def _told(self, name: str) -> pb.Tenant:
        """Returns a tenant's message once the reported state is durable."""
        self._runner.now()  # raises if the runner no longer decides
        message = self._message(name)
        self._runner.changed()
        await self._runner.wait_durable()
        return message

    def _message(self, name: str) -> pb.Tenant:
        shard = self._runner.shard
        message = pb.Tenant(name=name, effective=_limits_message(shard.tenants.whole_limits_of(name)))
        message.limits.CopyFrom(_own(shard, name))
        if name != DEFAULT:
            message.usage.CopyFrom(pb.TenantUsage(streams=self._streams.count(name), **usage_of(shard, name)._asdict()))
        return message


def _own(shard: Shard, name: str) -> pb.TenantLimits:
    """Returns a tenant's own limits, which have the same wire form as in its row."""
    return pb.TenantLimits.FromString(tenant_row(shard, name).limits.SerializeToString())


def _state(limits: pb.TenantLimits) -> State:
    """Returns limits as REST shows them; the JSON of protobuf has numbers as text, and leaves out zeros of rates."""
    state: dict[str, object] = {}
    for field, value in limits.ListFields():
        if field.message_type is not None:
            value = {"requestsPerMinute": value.requests_per_minute, "burstSize": value.burst_size}  # noqa: PLW2901
        state[field.json_name] = value
    return state


def _limits_message(limits: Limits) -> pb.TenantLimits:
    message = pb.TenantLimits()
    for name, value in limits._asdict().items():
        if isinstance(value, Rate):
            rate = pb.RateLimit(requests_per_minute=value.per_minute, burst_size=value.burst)
            getattr(message, name).CopyFrom(rate)
        else:
            setattr(message, name, value)
    return message
