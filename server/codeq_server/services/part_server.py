"""Serves ShardWorkService: parts of worker streams whose clients are connected to other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from codeq.frames import let_go
from codeq_internal.v1 import shard_work_pb2 as pb

from codeq_server.auth.access import access_of
from codeq_server.auth.authenticator import bearer
from codeq_server.auth.claims import Claims
from codeq_server.auth.revocation import Authorization
from codeq_server.core.errors import Reason, Rejection

from .calls import Calls
from .grpc_front import WORK, refuse
from .internal_callers import InternalCallers, Owner
from .part_links import SERVICE, WORK_ON_SHARD
from .stream_token import StreamToken
from .streams import hello_of, rejection_in


class PartServer:
    """Creates the handler of a grpc.aio server.

    Args:
        calls: Knows the shard and authenticates clients.
        owner: This process as the owner of a shard.
        on_known: Called with the gRPC peer of a connection that presented a secret.
        on_defect: Called with the method and exception of an unexpected failure.
    """

    def __init__(
        self,
        calls: Calls,
        owner: Owner,
        on_known: Callable[[str], None],
        on_defect: Callable[[str, BaseException], None],
    ) -> None:
        self._calls = calls
        self._access = access_of(WORK)
        self._callers = InternalCallers((), owner, calls.denied, on_known)
        self._on_defect = on_defect

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._work,
            request_deserializer=pb.WorkOnShardRequest.FromString,
            response_serializer=pb.WorkOnShardResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"WorkOnShard": handler}),))

    async def _work(self, _: Any, context: Any) -> None:
        try:
            self._callers.check("ShardWorkService", context)
            first = await hello_of(context, pb.WorkOnShardRequest)
            caller = first.hello.caller
            token = await self._token_of(caller.authorization or caller.client_certificate)
            del caller
            await self._calls.shards.current().work_part(token, context, first)
        except asyncio.CancelledError as cancelled:
            let_go(cancelled)
            raise
        except grpc.aio.InternalError:
            return  # a write failed because the caller is gone
        except (Exception, BaseExceptionGroup) as problem:  # noqa: BLE001 - every stream gets a status
            refuse(context, self._refusal_of(problem))
            let_go(problem)

    def _refusal_of(self, problem: BaseException) -> Rejection:
        refusal = rejection_in(problem)
        if refusal is None:
            self._on_defect(WORK_ON_SHARD, problem)
            refusal = Rejection(Reason.INTERNAL, "internal error")
        return refusal

    async def _token_of(self, shown: Authorization) -> StreamToken:
        """Returns the token of a client.

        Raises:
            Rejection: It is not accepted for a worker's stream.
        """
        authenticator = self._calls.authenticator
        claims = await authenticator.authenticate(shown, self._access.principal, self._access.scope)
        return StreamToken(claims, self._validate, authenticator.clock, bearer(shown), authenticator.revocations)

    async def _validate(self, token: Authorization) -> Claims:
        authorization = f"Bearer {token}" if isinstance(token, str) else token
        return await self._calls.authenticator.authenticate(authorization, self._access.principal, self._access.scope)
