"""The methods with which the clients inspect and back up the server."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from codeq import calls
from codeq.audit import AuditFilter, AuditPage
from codeq.calls import Call
from codeq.cluster import Topology
from codeq.server_records import Backup, ServerInfo

_Value = TypeVar("_Value")


class ServerClient:
    """The calls of `Client` about the server."""

    def audit(self, wanted: AuditFilter | None = None, page_token: str = "", *, tenant: str = "") -> AuditPage:
        """Reads a page of the audit: of the tenant, or for an operator of all tenants unless it names one."""
        return self._call(calls.audit(wanted, page_token, tenant))

    def back_up(self, name: str) -> Backup:
        """Makes a backup in the server's backup folder; the server finishes it even if the call times out."""
        return self._call(calls.back_up(name))

    def server_info(self) -> ServerInfo:
        """Reads the server's version, mode and limits."""
        return self._call(calls.server_info())

    def topology(self) -> Topology:
        """Reads the members of the cluster and which of them leads."""
        return self._call(calls.topology())

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncServerClient:
    """The calls of `AsyncClient` about the server."""

    async def audit(self, wanted: AuditFilter | None = None, page_token: str = "", *, tenant: str = "") -> AuditPage:
        """Reads a page of the audit; see Client.audit."""
        return await self._call(calls.audit(wanted, page_token, tenant))

    async def back_up(self, name: str) -> Backup:
        """Makes a backup on the server; see Client.back_up."""
        return await self._call(calls.back_up(name))

    async def server_info(self) -> ServerInfo:
        """Reads the server's version, mode and limits."""
        return await self._call(calls.server_info())

    async def topology(self) -> Topology:
        """Reads the members of the cluster; see Client.topology."""
        return await self._call(calls.topology())

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
