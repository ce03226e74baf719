"""Calls about tenants, and the methods with which the clients make them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import TypeVar

from codeq.calls import Call, filled
from codeq.tenant_records import Tenant, TenantLimits
from codeq.v1 import tenant_service_pb2 as pb

_SERVICE = "/codeq.v1.TenantService/"
_Value = TypeVar("_Value")


def tenants(page_size: int, page_token: str) -> Call[tuple[list[Tenant], str]]:
    """Reads a page of tenants; the value is the page and the token of the next page."""
    return Call(
        _SERVICE + "ListTenants",
        filled(pb.ListTenantsRequest, page_size=page_size, page_token=page_token),
        pb.ListTenantsResponse,
        lambda reply: ([Tenant.from_message(each) for each in reply.tenants], reply.next_page_token),
        repeatable=True,
    )


def tenant(name: str) -> Call[Tenant]:
    """Reads a tenant."""
    request = filled(pb.GetTenantRequest, name=name)
    return Call(_SERVICE + "GetTenant", request, pb.GetTenantResponse, _tenant_of, repeatable=True)


def update_tenant(name: str, limits: TenantLimits | None, inherit: Collection[str]) -> Call[Tenant]:
    """Changes limits of a tenant."""
    request = filled(pb.UpdateTenantRequest, name=name, inherit=[_json_name(each) for each in inherit])
    if limits is not None:
        request.limits.CopyFrom(limits.to_message())
    return Call(_SERVICE + "UpdateTenant", request, pb.UpdateTenantResponse, _tenant_of, repeatable=True)


def usage(of: str) -> Call[Tenant]:
    """Reads what a tenant uses."""
    request = filled(pb.GetUsageRequest, tenant=of)
    return Call(_SERVICE + "GetUsage", request, pb.GetUsageResponse, _tenant_of, repeatable=True)


def _tenant_of(reply: pb.GetTenantResponse | pb.UpdateTenantResponse | pb.GetUsageResponse) -> Tenant:
    return Tenant.from_message(reply.tenant)


def _json_name(name: str) -> str:
    """Returns the server's name of a limit; an unknown name as it is, for the server to reject."""
    field = pb.TenantLimits.DESCRIPTOR.fields_by_name.get(name)
    return name if field is None else field.json_name


class TenantClient:
    """The calls of `Client` about tenants."""

    def tenants(self, page_size: int = 0, page_token: str = "") -> tuple[list[Tenant], str]:
        """Reads a page of tenants, ordered by name, and the token of the next page (empty: none); for operators."""
        return self._call(tenants(page_size, page_token))

    def tenant(self, name: str) -> Tenant:
        """Reads a tenant, or "_default", the limits of all tenants without limits of their own; for operators."""
        return self._call(tenant(name))

    def update_tenant(self, name: str, limits: TenantLimits | None = None, *, inherit: Collection[str] = ()) -> Tenant:
        """Changes limits of a tenant, or of "_default"; for operators. It takes effect at once.

        Args:
            name: Name of the tenant.
            limits: Limits to set; those that are None stay as they are.
            inherit: Names of limits to inherit from now on, such as "queues_max".
        """
        return self._call(update_tenant(name, limits, inherit))

    def usage(self, *, tenant: str = "") -> Tenant:
        """Reads what the token's tenant uses, and its limits; only operators name another tenant."""
        return self._call(usage(tenant))

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncTenantClient:
    """The calls of `AsyncClient` about tenants."""

    async def tenants(self, page_size: int = 0, page_token: str = "") -> tuple[list[Tenant], str]:
        """Reads a page of tenants; see Client.tenants."""
        return await self._call(tenants(page_size, page_token))

    async def tenant(self, name: str) -> Tenant:
        """Reads a tenant; see Client.tenant."""
        return await self._call(tenant(name))

    async def update_tenant(
        self, name: str, limits: TenantLimits | None = None, *, inherit: Collection[str] = ()
    ) -> Tenant:
        """Changes limits of a tenant; see Client.update_tenant."""
        return await self._call(update_tenant(name, limits, inherit))

    async def usage(self, *, tenant: str = "") -> Tenant:
        """Reads what a tenant uses; see Client.usage."""
        return await self._call(usage(tenant))

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
