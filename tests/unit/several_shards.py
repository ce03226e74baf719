"""Several shards in one process: each has a runner on a store in memory, a Serving, and Calls with a router."""

from __future__ import annotations

import asyncio
from typing import Any

from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.verdict import Token
from codeq_server.core import ids
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.shard import ShardSettings
from codeq_server.services.calls import Calls
from codeq_server.services.routing.claim_router import PACE, Pace
from codeq_server.services.routing.placing import has_limits
from codeq_server.services.routing.router import Router
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from codeq_server.services.shards import Caller
from google.protobuf.message import Message
from held_log import HandClock, HeldRunner
from tenant_tokens import TenantTokens

TASKS = "/codeq.v1.TaskService/"


BOUND = "bound"
"""Tenant of the token that allows its holder, a producer, one command."""


class SomeTokens(TenantTokens):
    """Accepts every token like `TenantTokens`; that of the tenant BOUND allows one command."""

    def validate(self, token: str) -> Token:
        if token != BOUND:
            return super().validate(token)
        return Token(token, "", frozenset(), frozenset({"a"}), {"tenantId": token})


class InstalledShards:
    """The way of one process to all shards: messages are copied, as if they had travelled."""

    def __init__(self, installation: Installation, mine: int) -> None:
        self.count, self.mine = len(installation.runners), mine
        self._installation = installation

    def shard_of(self, task_id: str) -> int:
        return ids.shard_of(task_id, self.count)

    def limits_queue(self, tenant: str, command: str) -> bool:
        return has_limits(self._installation.runners[self.mine].shard.policies, tenant, command)

    async def call(
        self,
        shard: int,
        method: str,
        request: Message,
        caller: Caller,
        *,
        part: bool = False,
        seconds: float = 30.0,  # noqa: ARG002
    ) -> Message:
        installation = self._installation
        if shard in installation.down:
            raise Rejection(Reason.SERVER_UNREACHABLE, f"shard {shard} is down")
        installation.made.append((shard, method.rpartition("/")[2]))
        calls = installation.calls[shard]
        sent = calls.methods[method].parse(request.SerializeToString())
        if shard != self.mine:
            await installation.travel(shard, method)
        claims, authorization, origin = caller
        if shard != self.mine:
            claims = calls.known(method, authorization) or claims
        response = await calls.carry_out(method, claims, sent, authorization, origin=origin, here=True, part=part)
        copy = type(response)()
        copy.CopyFrom(response)
        return copy


class Installation:
    """Several shards, each with its process.

    Attributes:
        down: Shards whose processes are down.
        held: Shard and RPC of the calls that do not arrive in another process.
        made: Shard and RPC of the calls made on shards.
    """

    def __init__(self, count: int, pace: Pace = PACE) -> None:
        self.clock = HandClock()
        self.down: set[int] = set()
        self.held: set[tuple[int, str]] = set()
        self.made: list[tuple[int, str]] = []
        self.runners = [HeldRunner(ShardSettings(route=ids.Route(shard, count))) for shard in range(count)]
        self.calls: list[Calls] = []
        for shard, runner in enumerate(self.runners):
            runner.log.free = True
            runner._clock = self.clock
            calls = Calls(
                Authenticator(SomeTokens(), SomeTokens()),
                ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere")),
            )
            calls.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
            shards = InstalledShards(self, shard)
            calls.router = Router(shards, calls.charge, lambda: self.clock()[0] / 1000, pace)
            self.calls.append(calls)

    async def travel(self, shard: int, method: str) -> None:
        """Takes a call to another process."""
        await asyncio.sleep(0)
        while (shard, method.rpartition("/")[2]) in self.held:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def call(self, process: int, method: str, request: Message, tenant: str = "acme") -> Any:
        """Makes a call of a client of one process."""
        name = method if method.startswith("/") else TASKS + method
        return await self.calls[process].call(name, request, f"Bearer {tenant}", origin="127.0.0.1:1")

    async def create(self, process: int, command: str = "a", *, tenant: str = "acme", **fields: Any) -> str:
        """Creates a task, and returns its id."""
        spec = task_pb2.TaskSpec(command=command, **fields)
        response = await self.call(process, "CreateTask", pb.CreateTaskRequest(spec=spec), tenant)
        return str(response.task.id)

    async def claim(self, process: int, count: int = 1, *, wait: int = 0, commands: tuple[str, ...] = ()) -> list[str]:
        """Claims tasks, and returns their ids."""
        request = pb.ClaimTasksRequest(commands=commands, count=count, wait_seconds=wait)
        return [task.id for task in (await self.call(process, "ClaimTasks", request)).tasks]

    def shard_of(self, task_id: str) -> int:
        """Returns the shard to which an id leads."""
        return ids.shard_of(task_id, len(self.runners))

    @property
    def waiting(self) -> int:
        """Number of waiters in all shards."""
        return sum(len(runner.waiting) for runner in self.runners)

    @property
    def leased(self) -> int:
        """Number of leased tasks in all shards."""
        return sum(len(runner.shard.deliveries) for runner in self.runners)

    def texts(self, prefix: str, shard: int, count: int) -> list[str]:
        """Returns texts that lead to a shard."""
        found: list[str] = []
        number = 0
        while len(found) < count:
            number += 1
            if self.shard_of(f"{prefix}{number}") == shard:
                found.append(f"{prefix}{number}")
        return found
