"""Unary calls, shared by both front ends: gRPC and the gateway in this process.

A call is authenticated according to the option on its RPC, charged to its rate limits, and validated by the rules of
its request. A caller acts for the tenant of the token; an operator may name another one. Viewers get no content of
tasks. Calls on the shard are executed by its current `Serving`, in their tenant's turn, and answered once everything
they saw is durable. Calls on the node are executed at once, whether or not it serves the shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from codeq.options.v1 import options_pb2
from codeq.v1.tenant_service_pb2 import UpdateTenantRequest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from codeq_server.auth.authenticator import Authenticator, bearer
from codeq_server.auth.claims import NEVER, Claims
from codeq_server.auth.revocation import PASSING, Authorization, Watch, revoked
from codeq_server.auth.verdict import expired
from codeq_server.core.errors import CorruptRows, Reason, Rejection, invalid_field
from codeq_server.core.tenants import DEFAULT
from codeq_server.engine.runner import ShardRunner

from .auditing import DENIALS, OK, Act, State, denial_of, record_denial
from .content import remove_content
from .elsewhere import CREATE_SERVICE
from .methods import TENANT_FIELD, Method, internal_methods, methods_of, stateless
from .routing.router import Router
from .serving import SHARD_SERVICES, TASKS, Handler, Serving, handlers_of
from .shard_service import SHARD
from .shard_table import ShardTable
from .shards import Caller, LinkedShards, Passing
from .validation import check_message

_HANDOVER: Final = "TransferLeadership"

_ROUTED: Final = 0
"""The way of a call of a client: to the shards that it concerns."""
_HERE: Final = 1
"""That of a call that another process has routed here."""
_PART: Final = 2
"""That of such a call which is one part of a call that is charged and recorded elsewhere."""


class Calls:
    """The table of unary methods, built from the services' descriptors.

    Attributes:
        shards: Routes calls on a shard.
        methods: The methods by full name.
        services: The public services, the shard's services first.
        router: Executes calls that need other shards; None: there is one shard.
        siblings: Reaches all shards with streams; None: there is one shard.
        passing: Passes calls on while this node does not serve the shard; None: callers are told who does.
        draining: Whether the server rejects new calls.

    Args:
        authenticator: Authenticates the callers.
        shards: Routes calls on a shard.
        viewers_see_content: Whether viewers see the content of tasks.
    """

    def __init__(self, authenticator: Authenticator, shards: ShardTable, *, viewers_see_content: bool = False) -> None:
        self.authenticator = authenticator
        self._viewers_see_content = viewers_see_content
        self.shards = shards
        self.methods: dict[str, Method] = {}
        self.services: list[ServiceDescriptor] = []
        self.draining = False
        self.router: Router | None = None
        self.siblings: LinkedShards | None = None
        self.passing: Passing | None = None
        for name in SHARD_SERVICES:
            self._add(name, {})
        for name, like in ((SHARD, "ClaimTasks"), (CREATE_SERVICE, "BatchCreateTasks")):
            service = descriptor_pool.Default().FindServiceByName(name)
            for method in internal_methods(service, self.methods[f"/{TASKS}/{like}"]):
                self.methods[method.name] = method

    def public_methods(self) -> list[Method]:
        """Returns the methods that clients may call."""
        return [self.methods[f"/{each.full_name}/{rpc.name}"] for each in self.services for rpc in each.methods]

    def charge(self, method: Method, claims: Claims, request: Message) -> None:
        """Charges a call that several shards execute, once, to the rate limits of this process.

        Raises:
            Rejection: RATE_LIMITED.
        """
        if self.shards.serving is not None:
            _charge(self.shards.serving, method, claims, request, method.items(request))

    def register(self, service_name: str, service: object, state: Callable[[], State | None] = stateless) -> None:
        """Registers a service of the node, whose methods have the names of its RPCs.

        Args:
            service_name: Full name of the service.
            service: The service.
            state: Returns the state that its administrative calls change, for the audit.
        """
        self._add(service_name, handlers_of(service_name, service), state)

    def _add(
        self, service_name: str, handlers: Mapping[str, Handler], state: Callable[[], State | None] = stateless
    ) -> None:
        descriptor = descriptor_pool.Default().FindServiceByName(service_name)
        self.services.append(descriptor)
        self.methods |= {method.name: method for method in methods_of(descriptor, handlers, state)}

    def denied(self, name: str, rejection: Rejection, origin: str) -> None:
        """Records a rejection in the audit trail if it refuses access and this node serves the shard.

        Args:
            name: Full name of the method.
            rejection: The rejection.
            origin: Address of the caller, as host:port or as gRPC's peer.
        """
        serving = self.shards.serving
        if rejection.reason in DENIALS and serving is not None:
            record_denial(serving.runner, name, rejection, origin)

    async def settled(self) -> None:
        """Waits until everything acknowledged so far is in the rows of this server.

        Raises:
            Rejection: This server is not the leader.
        """
        await self.shards.current().runner.wait_durable()

    async def call(
        self, name: str, request: Message, authorization: Authorization, *, stale: bool = False, origin: str = ""
    ) -> Message:
        """Returns the response of a call.

        Cancelling the awaiting task means that the caller is gone.

        Args:
            name: Full name of the method.
            request: Its request.
            authorization: Value of the authorization header, or the certificate.
            stale: Whether a follower may answer a read from its own, possibly stale, state.
            origin: Address of the caller, as host:port or as gRPC's peer; only the audit reads it.

        Raises:
            Rejection: The call was rejected.
        """
        claims = self.known(name, authorization) or await self.authenticate(name, authorization)
        return await self.carry_out(name, claims, request, authorization, stale=stale, origin=origin)

    def known(self, name: str, authorization: Authorization) -> Claims | None:
        """Authenticates a call and returns the claims of its caller; see `Authenticator.known`.

        Args:
            name: Full name of the method.
            authorization: Value of the authorization header, or the certificate.

        Returns:
            None: the token's validation has to be awaited, with `authenticate`.

        Raises:
            Rejection: The caller may not make the call.
        """
        access = self.methods[name].access
        return self.authenticator.known(authorization, access.principal, access.scope)

    async def authenticate(self, name: str, authorization: Authorization) -> Claims:
        """Returns the claims of a caller that is not `known`, once its token is validated.

        Raises:
            Rejection: The caller may not make the call.
        """
        access = self.methods[name].access
        return await self.authenticator.authenticate(authorization, access.principal, access.scope)

    async def carry_out(
        self,
        name: str,
        claims: Claims,
        request: Message,
        authorization: Authorization,
        *,
        stale: bool = False,
        origin: str = "",
        here: bool = False,
        part: bool = False,
        passed: bool = False,
    ) -> Message:
        """Returns the response of a call whose caller is authenticated; see `call`.

        Args:
            name: Full name of the method.
            claims: Claims of the caller.
            request: Its request.
            authorization: Value of the authorization header, or the certificate.
            stale: Whether a follower may answer a read from its own, possibly stale, state.
            origin: Address of the caller, as host:port or as gRPC's peer; only the audit reads it.
            here: Whether this process executes the call whichever shards it concerns, because another one routed it.
            part: Whether the call is one part of a call that is charged and recorded elsewhere.
            passed: Whether another process has passed the call on, so that this one routes it, but does not pass it on.

        Raises:
            Rejection: The call was rejected, the token has expired while its request was received, or it was revoked
                while the call waited.
        """
        method = self.methods[name]
        way = _ROUTED if not here else _PART if part else _HERE
        execute = self._carry_out if self.passing is None or here or passed else self._carry_out_somewhere
        try:
            if passed:
                self.shards.current()  # raises if this process does not lead: then the other one asks elsewhere
            hides_content = self._hides_content(method, claims, authorization)
            if method.waits(request):
                response = await self._carry_out_waiting(
                    execute, method, claims, request, authorization, stale=stale, way=way
                )
            else:
                response = await execute(method, claims, request, authorization, stale=stale, origin=origin, way=way)
        except Rejection as rejection:
            rejection.tenant = claims.tenant_id or getattr(request, TENANT_FIELD, "")
            rejection.subject = claims.subject
            rejection.task_id = _task_id_of(request)
            raise
        if hides_content:
            remove_content(response)
        if method.lists and claims.seen_commands is not None and not here:
            self._note_denied_items(name, claims, response, origin)
        return response

    def _note_denied_items(self, name: str, claims: Claims, response: Any, origin: str) -> None:
        """Records that items of a batch were refused because of their commands."""
        answers = getattr(response, "results", ())
        denial = denial_of([answer.error for answer in answers if answer.HasField("error")], claims)
        if denial is not None:
            self.denied(name, denial, origin)

    def _hides_content(self, method: Method, claims: Claims, authorization: Authorization) -> bool:
        """Returns whether the caller must not see the content of tasks.

        Raises:
            Rejection: The token has expired; or the call is for content alone, and the caller must not see it.
        """
        if claims.expires_at != NEVER and claims.expires_at <= self.authenticator.clock():
            raise expired(claims.expires_at, authorization)
        if not claims.is_viewer or self._viewers_see_content:
            return False
        if method.access.content:
            raise Rejection(Reason.NOT_ALLOWED, "the token is a viewer's, which sees no content of tasks")
        return True

    async def _carry_out_waiting(
        self,
        execute: Callable[..., Awaitable[Message]],
        method: Method,
        claims: Claims,
        request: Message,
        authorization: Authorization,
        *,
        stale: bool,
        way: int,
    ) -> Message:
        """Carries out a call that waits, unless its token is revoked meanwhile.

        Raises:
            Rejection: UNAUTHENTICATED: the token was revoked.
        """
        if not self._is_accepted(method, claims, authorization):  # it was revoked since the call was authenticated
            raise revoked()
        watch: Watch | None = None
        try:
            async with asyncio.timeout(None) as patience:

                def ask_again() -> None:
                    if not self._is_accepted(method, claims, authorization):
                        patience.reschedule(0)

                watch = self.authenticator.revocations.watch(bearer(authorization), ask_again)
                return await execute(method, claims, request, authorization, stale=stale, way=way)
        except TimeoutError:
            if not patience.expired():
                raise
            raise revoked() from None
        finally:
            if watch is not None:
                watch.end()

    def _is_accepted(self, method: Method, claims: Claims, authorization: Authorization) -> bool:
        """Returns whether a token is still its holder's; one that cannot be validated at once counts as accepted."""
        try:
            now = self.known(method.name, authorization)
        except Rejection as rejection:
            return rejection.reason in PASSING
        return now is None or (now.subject, now.tenant_id) == (claims.subject, claims.tenant_id)

    async def _carry_out_somewhere(
        self,
        method: Method,
        claims: Claims,
        request: Message,
        authorization: Authorization,
        *,
        stale: bool,  # noqa: ARG002 - another node serves the shard, if this one does not
        way: int,
        origin: str = "",
    ) -> Message:
        """Carries out a client's call here if this node serves the shard, or else where another one is served."""
        assert self.passing is not None
        is_of_node = method.handler is not None and (self.router is None or not self.router.spreads(method))
        if is_of_node or self.draining or self.shards.serving is not None:
            try:
                return await self._carry_out(
                    method, claims, request, authorization, stale=False, way=way, origin=origin
                )
            except Rejection as rejection:
                # Otherwise it was not executed: the leadership has ended first.
                if is_of_node or rejection.reason is not Reason.NOT_LEADER:
                    raise
        return await self.passing.call(method.name, request, Caller(claims, authorization, origin))

    async def _carry_out(
        self,
        method: Method,
        claims: Claims,
        request: Message,
        authorization: Authorization,
        *,
        stale: bool,
        way: int,
        origin: str = "",
    ) -> Message:
        if self.draining:
            raise Rejection(Reason.DRAINING, "the server is stopping")
        router = self.router if way == _ROUTED else None
        elsewhere = None if router is None else router.elsewhere(method, claims, request, authorization, origin)
        if elsewhere is not None:
            return await elsewhere
        if method.handler is not None:
            if self.shards.serving is not None and way != _PART:
                _charge(self.shards.serving, method, claims, request, method.items(request))
            check_message(request)
            act = _act_of(method, claims, request, origin, way) if method.administers else None
            return await (
                method.handler(claims, request) if act is None else self._on_node(method, act, claims, request)
            )
        shards = self.shards
        serving = await shards.route_stale(method, request) if stale else shards.route(method, request)
        items = method.items(request)
        if way != _PART:
            _charge(serving, method, claims, request, items)
        check_message(request)
        if method.names_tenant or not claims.tenant_id:
            claims = _acting(method, claims, request)
        act = _act_of(method, claims, request, origin, way) if method.administers else None
        await serving.runner.room(claims.tenant_id, method.cost + items)
        handler = serving.handlers[method.name]
        try:
            return await (handler(claims, request) if act is None else _on_shard(handler, act, claims, request))
        except Rejection as rejection:
            refusal = rejection
        except CorruptRows as problem:
            raise Rejection(Reason.CORRUPT_DATA, f"stored data contradict each other: {problem}") from None
        try:
            if act is not None:
                act.refuse(serving.runner, refusal.reason)
            await _confirm(serving.runner, method, refusal)
            raise refusal
        finally:
            del refusal  # otherwise the exception and this frame would keep each other alive

    async def _on_node(self, method: Method, act: Act, claims: Claims, request: Message) -> Message:
        """Carries out an act on the node: it is recorded before, and its outcome afterwards.

        A handover ends the leadership that records it, so its record says beforehand that it succeeded.
        """
        assert method.handler is not None
        runner = None if self.shards.serving is None else self.shards.serving.runner
        hands_over = method.descriptor.name == _HANDOVER
        if runner is not None:
            act.record(runner, before=method.state(), outcome=OK if hands_over else Reason.OUTCOME_UNKNOWN.name)
            await runner.wait_durable()
        try:
            response = await method.handler(claims, request)
        except Rejection as rejection:
            refusal = rejection
        except asyncio.CancelledError:
            act.refuse(runner, Reason.OUTCOME_UNKNOWN)  # it may still be carried out
            raise
        else:
            if runner is not None and not hands_over:
                act.record(runner, after=method.state())
            act.tell()  # even if the caller leaves now
            if runner is not None and not hands_over:
                await runner.wait_durable()
            return response
        try:
            act.refuse(runner, refusal.reason)
            if runner is not None and runner.refusal is None:
                await runner.wait_durable()
            raise refusal
        finally:
            del refusal  # as above


async def _on_shard(handler: Handler, act: Act, claims: Claims, request: Message) -> Message:
    """Carries out an act on the shard, and tells the log of it unless it is rejected.

    Raises:
        Rejection: The act was rejected.
    """
    try:
        response = await handler(claims, request, act)
    except asyncio.CancelledError:
        act.leave()
        raise
    act.tell()
    return response


def _act_of(method: Method, claims: Claims, request: Message, origin: str, way: int) -> Act | None:
    """Returns an administrative call as an act.

    One that only operators may make concerns the server, or the tenant that it limits.

    Returns:
        None: it is a dry run.
    """
    if method.is_dry_run(request):
        return None
    tenant = claims.tenant_id if method.access.principal == options_pb2.PRINCIPAL_ADMIN else ""
    if isinstance(request, UpdateTenantRequest) and request.name != DEFAULT:
        tenant = request.name
    name, subject = method.descriptor.name, claims.subject
    return Act(name, request, subject=subject, tenant=tenant, origin=origin, part=way == _PART)


def _charge(serving: Serving, method: Method, claims: Claims, request: Any, items: int) -> None:
    """Charges a call that has a rate limit.

    Raises:
        Rejection: RATE_LIMITED.
    """
    if method.limited is None:
        return
    elsewhere = claims.is_operator and method.names_tenant and request.tenant not in ("", claims.tenant_id)
    serving.rates.check(method.limited, claims, items or 1, elsewhere=elsewhere)


def _acting(method: Method, claims: Claims, request: Any) -> Claims:
    """Returns the claims of a caller with the tenant on which the call acts.

    Raises:
        Rejection: NOT_OPERATOR, INVALID_TENANT, or INVALID_FIELD if the tenant has to be named.
    """
    named: str = request.tenant if method.names_tenant else ""
    if named and named != claims.tenant_id:
        if not claims.is_operator:
            raise Rejection(Reason.NOT_OPERATOR, "only an operator may name a tenant other than the token's")
        return replace(claims, tenant_id=named)
    if not claims.tenant_id and method.needs_tenant:
        if method.names_tenant:
            raise invalid_field("tenant", "must be set, because the operator's token has no tenant")
        raise Rejection(Reason.INVALID_TENANT, "the operator's token has no tenant, and the call needs one")
    return claims


def _task_id_of(request: Message) -> str:
    """Returns the id of the task that a call names or is to create; empty: none, or several."""
    task_id = getattr(request, "task_id", "") or getattr(getattr(request, "spec", None), "task_id", "")
    return task_id if isinstance(task_id, str) else ""


async def _confirm(runner: ShardRunner, method: Method, refusal: Rejection) -> None:
    """Waits until the state behind a rejection is durable: it may come from another caller's uncommitted decision.

    Raises:
        Rejection: The leadership has ended, and the call decided nothing.
    """
    try:
        if refusal.reason is not Reason.OUTCOME_UNKNOWN:
            await runner.wait_durable()
        elif method.reads:
            raise refusal
    except Rejection:
        if runner.refusal is not None:
            raise runner.refusal.again() from None
        raise
