"""TopicService: the policies of queues."""

from __future__ import annotations

import hashlib
from typing import Final

from codeq.v1 import topic_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.shard import Shard
from codeq_server.engine.runner import ShardRunner

from . import payload_schemas
from .auditing import Act, State
from .convert import timestamp
from .deciding import decide
from .page_tokens import last_name, page_token
from .receiver_urls import check_receiver

PAGE_DEFAULT: Final = 100
RATE_MIN: Final = 0.001
"""Lowest rate of a policy, in deliveries per second."""
_PAGE: Final = "topics"
"""Kind of the page tokens."""


class TopicService:
    """Reports and sets policies. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    async def PutTopic(  # noqa: N802
        self, claims: Claims, request: pb.PutTopicRequest, act: Act
    ) -> pb.PutTopicResponse:
        """Sets the policy of a command."""
        claims.check_command(request.command)
        now, tenant = self._runner.now(), claims.tenant_id
        check_policy(request.policy)
        if request.policy.HasField("payload_schema"):
            _check_schema(request.policy.payload_schema)
        if request.policy.webhook:
            check_receiver(self._shard, "policy.webhook", request.policy.webhook, Reason.INVALID_POLICY)
        policy = rows_pb2.PolicyRow.FromString(stored_form(request.policy).SerializeToString())
        put = decide(self._runner, lambda: self._shard.policies.put(tenant, request.command, policy, now.wall_ms))
        act.record(self._runner, before=_state(put.before), after=_state(put.row))
        topic = topic_message(put.row)
        if put.before is None:
            topic.created = True
        await self._settled()
        return pb.PutTopicResponse(topic=topic)

    async def GetTopic(self, claims: Claims, request: pb.GetTopicRequest) -> pb.GetTopicResponse:  # noqa: N802
        """Returns one topic."""
        claims.check_command(request.command)
        self._runner.now()  # raises if the runner no longer decides
        row = self._shard.policies.row(claims.tenant_id, request.command)
        if row is None:
            raise Rejection(Reason.TOPIC_NOT_FOUND, f"the command {request.command!r} has no policy")
        await self._settled()
        return pb.GetTopicResponse(topic=topic_message(row))

    async def ListTopics(self, claims: Claims, request: pb.ListTopicsRequest) -> pb.ListTopicsResponse:  # noqa: N802
        """Returns a page of topics."""
        of = (_PAGE, claims.tenant_id)
        after = last_name(request.page_token, *of)
        self._runner.now()  # raises if the runner no longer decides
        rows, following = self._shard.policies.page(claims.tenant_id, after, request.page_size or PAGE_DEFAULT)
        await self._settled()
        return pb.ListTopicsResponse(
            topics=[topic_message(row) for row in rows if claims.sees(row.command)],
            next_page_token=page_token(following.encode(), *of) if following else "",
        )

    async def DeleteTopic(  # noqa: N802
        self, claims: Claims, request: pb.DeleteTopicRequest, act: Act
    ) -> pb.DeleteTopicResponse:
        """Removes the policy of a command, if it has one."""
        claims.check_command(request.command)
        self._runner.now()  # raises if the runner no longer decides
        before = self._shard.policies.delete(claims.tenant_id, request.command)
        act.record(self._runner, before=_state(before), after={"version": 0})
        await self._settled()
        return pb.DeleteTopicResponse()

    @property
    def _shard(self) -> Shard:
        return self._runner.shard

    async def _settled(self) -> None:
        """Waits until everything the call saw is durable."""
        self._runner.changed()
        await self._runner.wait_durable()


def check_policy(policy: pb.QueuePolicy) -> None:
    """Checks the rules about several fields of a policy, which the rules in the proto cannot name a field for.

    Raises:
        Rejection: INVALID_POLICY.
    """
    for name in ("rate_per_second", "rate_per_key_per_second"):
        rate = getattr(policy, name)
        if rate and not rate >= RATE_MIN:  # NaN is not
            raise _invalid(name, f"must be 0 or at least {RATE_MIN}")
    default, tiers = policy.default_priority, policy.priority_tiers
    if not policy.HasField("default_priority") or not tiers:
        return
    if default not in tiers:
        raise _invalid("default_priority", "must be one of priority_tiers")
    if default and 0 in tiers:
        raise _invalid("default_priority", "replaces priority 0, so priority_tiers must not have 0")


def _check_schema(schema: bytes) -> None:
    try:
        payload_schemas.compiled(schema)
    except payload_schemas.InvalidSchema as problem:
        raise _invalid("payload_schema", str(problem)) from None


def _invalid(name: str, text: str) -> Rejection:
    field = f"policy.{name}"
    return Rejection(Reason.INVALID_POLICY, f"{field}: {text}", ((field, text),))


def stored_form(policy: pb.QueuePolicy) -> pb.QueuePolicy:
    """Returns a policy as it is stored and shown: without zeros, which say nothing, and with the tiers in order."""
    stored = pb.QueuePolicy()
    stored.CopyFrom(policy)
    for message in (stored, stored.backoff):
        for field, value in message.ListFields():
            if not field.is_repeated and not value:
                message.ClearField(field.name)
    if not stored.backoff.ByteSize():
        stored.ClearField("backoff")
    tiers = sorted(stored.priority_tiers)
    del stored.priority_tiers[:]
    stored.priority_tiers.extend(tiers)
    return stored


def topic_message(row: rows_pb2.TopicRow) -> pb.Topic:
    """Returns a topic's message; a policy has the same wire form as in its row."""
    return pb.Topic(
        topic_id=f"{row.tenant}.{row.command}",
        tenant_id=row.tenant,
        topic_name=row.command,
        policy=pb.QueuePolicy.FromString(row.policy.SerializeToString()),
        version=row.version,
        created_at=timestamp(row.created_ms),
        updated_at=timestamp(row.updated_ms),
    )


def _state(row: rows_pb2.TopicRow | None) -> State:
    """Returns a topic as the audit shows it."""
    if row is None:
        return {"version": 0}
    policy = topic_message(row).policy
    state = {"version": row.version, **_set_fields(policy)}
    if policy.HasField("backoff"):
        state["backoff"] = _set_fields(policy.backoff)
    return state


def _set_fields(message: pb.QueuePolicy | pb.Backoff) -> dict[str, object]:
    """Returns the fields that are set, without messages; of a schema its digest, because a record is small."""
    fields: dict[str, object] = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            shown = hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value
            fields[field.json_name] = list(value) if field.is_repeated else shown
    return fields
