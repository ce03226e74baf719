"""SubscriptionService: URLs of workers that get signals when work becomes ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from codeq.v1 import subscription_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import subscriptions as core
from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.core.subscriptions import Subscription, Wanted
from codeq_server.engine.runner import ShardRunner
from codeq_server.webhooks.signals import Notifier

from .auditing import Act
from .convert import timestamp
from .page_tokens import last_name, page_token
from .receiver_urls import check_receiver

PAGE_DEFAULT: Final = 100
TTL_DEFAULT_SECONDS: Final = 300
MODES: Final[dict[str, rows_pb2.SignalMode]] = {
    "fanout": rows_pb2.SIGNAL_MODE_UNSPECIFIED,
    "group": rows_pb2.SIGNAL_MODE_GROUP,
    "hash": rows_pb2.SIGNAL_MODE_HASH,
}
"""The modes by the words of the API."""

_WORDS: Final = {mode: word for word, mode in MODES.items()}
_LIST: Final = "subscriptions"
_Sees = Callable[[Subscription], bool]


class SubscriptionService:
    """Keeps subscriptions. Methods have the names and contracts of the proto's RPCs.

    Args:
        runner: Runner of the shard.
        notifier: Sends the signals; None: nobody does, as on a shard that is only read.
    """

    def __init__(self, runner: ShardRunner, notifier: Notifier | None) -> None:
        self._runner = runner
        self._notifier = notifier

    async def CreateSubscription(  # noqa: N802
        self, claims: Claims, request: pb.CreateSubscriptionRequest
    ) -> pb.CreateSubscriptionResponse:
        """Makes a subscription."""
        wanted = self._wanted(claims, request)
        runner = self._runner
        made = core.subscribe(
            runner.shard, _new_id(runner.random), claims.tenant_id, claims.subject, wanted, runner.now()
        )
        ready = core.ready_work(runner.shard, claims.tenant_id, wanted.commands)
        response = pb.CreateSubscriptionResponse(subscription_id=made.id, expires_at=timestamp(made.expires_ms))
        runner.changed()
        await runner.wait_durable()
        if self._notifier is not None:
            self._notifier.welcome(made, ready)
        return response

    async def HeartbeatSubscription(  # noqa: N802
        self, claims: Claims, request: pb.HeartbeatSubscriptionRequest
    ) -> pb.HeartbeatSubscriptionResponse:
        """Renews a subscription."""
        runner = self._runner
        now = runner.now()
        found = self._of_worker(claims, request.id)
        core.renew(runner.shard, found, request.ttl_seconds * 1000, now)
        response = pb.HeartbeatSubscriptionResponse(subscription_id=found.id, expires_at=timestamp(found.expires_ms))
        runner.changed()
        await runner.wait_durable()
        return response

    async def GetSubscription(  # noqa: N802
        self, claims: Claims, request: pb.GetSubscriptionRequest
    ) -> pb.GetSubscriptionResponse:
        """Returns a subscription."""
        self._runner.now()  # raises if the runner no longer decides
        response = pb.GetSubscriptionResponse(subscription=_message(self._of_worker(claims, request.id)))
        await self._runner.wait_durable()
        return response

    async def ListSubscriptions(  # noqa: N802
        self, claims: Claims, request: pb.ListSubscriptionsRequest
    ) -> pb.ListSubscriptionsResponse:
        """Returns a page of subscriptions whose commands the token allows."""
        page, following = self._page(
            claims, request.page_size, request.page_token, lambda each: _works_on(claims, each)
        )
        response = pb.ListSubscriptionsResponse(subscriptions=page, next_page_token=following)
        await self._runner.wait_durable()
        return response

    async def DeleteSubscription(  # noqa: N802
        self, claims: Claims, request: pb.DeleteSubscriptionRequest
    ) -> pb.DeleteSubscriptionResponse:
        """Ends a subscription."""
        self._runner.now()  # raises if the runner no longer decides
        await self._end(self._of_worker(claims, request.id))
        return pb.DeleteSubscriptionResponse()

    async def ListTenantSubscriptions(  # noqa: N802
        self, claims: Claims, request: pb.ListTenantSubscriptionsRequest
    ) -> pb.ListTenantSubscriptionsResponse:
        """Returns a page of the tenant's subscriptions; of an administrator bound to commands, of these only."""
        page, following = self._page(claims, request.page_size, request.page_token, lambda each: _sees(claims, each))
        response = pb.ListTenantSubscriptionsResponse(subscriptions=page, next_page_token=following)
        await self._runner.wait_durable()
        return response

    async def RemoveTenantSubscription(  # noqa: N802
        self, claims: Claims, request: pb.RemoveTenantSubscriptionRequest, act: Act
    ) -> pb.RemoveTenantSubscriptionResponse:
        """Ends a subscription of the tenant."""
        self._runner.now()  # raises if the runner no longer decides
        if claims.seen_commands is not None:
            text = "the token is bound to commands, and subscriptions may be for others"
            raise Rejection(Reason.COMMAND_NOT_ALLOWED, text)
        found = core.find(self._runner.shard, claims.tenant_id, request.id)
        core.unsubscribe(self._runner.shard, found)
        act.record(self._runner, before={"host": found.host, "eventTypes": list(found.wanted.commands)})
        await self._runner.wait_durable()
        return pb.RemoveTenantSubscriptionResponse()

    def _wanted(self, claims: Claims, request: pb.CreateSubscriptionRequest) -> Wanted:
        """Returns what a caller subscribes to.

        Raises:
            Rejection: INVALID_FIELD, URL_NOT_ALLOWED, COMMAND_NOT_ALLOWED.
        """
        check_receiver(self._runner.shard, "callback_url", request.callback_url)
        mode = MODES[request.delivery_mode or "fanout"]
        is_group = mode == rows_pb2.SIGNAL_MODE_GROUP
        if is_group and not request.group_id:
            raise invalid_field("group_id", "is required with delivery_mode group")
        if request.group_id and not is_group:
            raise invalid_field("group_id", "is only allowed with delivery_mode group")
        for command in request.event_types:
            if not claims.allows_command(command):
                raise Rejection(Reason.COMMAND_NOT_ALLOWED, f"the token does not allow the command {command}")
        commands: Iterable[str] = request.event_types
        if not request.event_types and not claims.allows_every_command:
            commands = claims.event_types
        interval_s = request.min_interval_seconds
        if not request.HasField("min_interval_seconds"):
            interval_s = 0 if self._notifier is None else self._notifier.outgoing.signal_interval_s
        ttl_s = request.ttl_seconds or TTL_DEFAULT_SECONDS
        return Wanted(
            request.callback_url, tuple(sorted(set(commands))), mode, request.group_id, interval_s * 1000, ttl_s * 1000
        )

    def _of_worker(self, claims: Claims, subscription_id: str) -> Subscription:
        """Returns a subscription that a worker may act on.

        Raises:
            Rejection: SUBSCRIPTION_NOT_FOUND.
        """
        found = core.find(self._runner.shard, claims.tenant_id, subscription_id)
        if not _works_on(claims, found):
            raise core.unknown()
        return found

    async def _end(self, subscription: Subscription) -> None:
        core.unsubscribe(self._runner.shard, subscription)
        self._runner.changed()
        await self._runner.wait_durable()

    def _page(self, claims: Claims, size: int, token: str, sees: _Sees) -> tuple[list[pb.Subscription], str]:
        """Returns a page, and the token of the next one.

        Raises:
            Rejection: INVALID_PAGE_TOKEN.
        """
        of = (_LIST, claims.tenant_id)
        after = last_name(token, *of)
        self._runner.now()  # raises if the runner no longer decides
        count = size or PAGE_DEFAULT
        there = self._runner.shard.subscriptions.by_tenant.get(claims.tenant_id, {})
        found = [there[id] for id in sorted(there) if id > after and sees(there[id])]  # noqa: A001
        following = page_token(found[count - 1].id.encode(), *of) if len(found) > count else ""
        return [_message(each) for each in found[:count]], following


def _works_on(claims: Claims, subscription: Subscription) -> bool:
    """Returns whether a worker's token allows all commands of a subscription."""
    commands = subscription.wanted.commands
    if claims.allows_every_command:
        return True
    return bool(commands) and all(claims.allows_command(command) for command in commands)


def _sees(claims: Claims, subscription: Subscription) -> bool:
    """Returns whether an administrator sees all commands of a subscription."""
    commands = subscription.wanted.commands
    return claims.seen_commands is None or (bool(commands) and all(claims.sees(command) for command in commands))


def _message(subscription: Subscription) -> pb.Subscription:
    wanted = subscription.wanted
    return pb.Subscription(
        subscription_id=subscription.id,
        callback_url=wanted.url,
        event_types=wanted.commands,
        delivery_mode=_WORDS.get(wanted.mode, "fanout"),
        group_id=wanted.group,
        min_interval_seconds=wanted.interval_ms // 1000,
        ttl_seconds=wanted.ttl_ms // 1000,
        created_at=timestamp(subscription.created_ms),
        expires_at=timestamp(subscription.expires_ms),
        subject=subscription.subject,
    )


def _new_id(random: Callable[[], float]) -> str:
    """Returns a random UUID of version 4."""
    digits = "".join(f"{int(random() * (1 << 32)):08x}" for _ in range(4))
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
