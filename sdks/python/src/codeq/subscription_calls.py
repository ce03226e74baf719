"""Subscriptions to signals: the record, the calls, and the methods with which the clients make them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self, TypeVar, cast

from codeq.calls import Call, filled
from codeq.records import to_datetime
from codeq.v1 import subscription_service_pb2 as pb

DeliveryMode = Literal["fanout", "group", "hash"]

_SERVICE = "/codeq.v1.SubscriptionService/"
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Subscription:
    """A URL that gets a request when work becomes ready.

    Attributes:
        id: Id of the subscription.
        callback_url: The URL.
        commands: Commands whose work is signalled; empty: every command of the tenant.
        delivery_mode: The way in which subscriptions share signals.
        group_id: Name of the group; empty unless the mode is "group".
        min_interval_seconds: Shortest time between two signals of one command.
        ttl_seconds: Time to live without a heartbeat.
        created_at: Time of its creation.
        expires_at: Time at which it ends without a heartbeat.
        subject: Subject of the token that made it.
    """

    id: str
    callback_url: str
    commands: tuple[str, ...]
    delivery_mode: DeliveryMode
    group_id: str
    min_interval_seconds: int
    ttl_seconds: int
    created_at: datetime
    expires_at: datetime
    subject: str

    @classmethod
    def from_message(cls, message: pb.Subscription) -> Self:
        """Returns the subscription in a message."""
        return cls(
            id=message.subscription_id,
            callback_url=message.callback_url,
            commands=tuple(message.event_types),
            delivery_mode=cast("DeliveryMode", message.delivery_mode),
            group_id=message.group_id,
            min_interval_seconds=message.min_interval_seconds,
            ttl_seconds=message.ttl_seconds,
            created_at=to_datetime(message.created_at),
            expires_at=to_datetime(message.expires_at),
            subject=message.subject,
        )


Subscribed = tuple[str, datetime]
"""Id of a subscription, and the time at which it ends without a heartbeat."""
SubscriptionPage = tuple[list[Subscription], str]
"""Subscriptions, and the token of the next page; empty: none."""


def subscribe(
    callback_url: str,
    commands: Collection[str],
    delivery_mode: DeliveryMode,
    group_id: str,
    ttl_seconds: int | None,
    min_interval_seconds: int | None,
) -> Call[Subscribed]:
    """Makes a subscription."""
    request = filled(
        pb.CreateSubscriptionRequest,
        callback_url=callback_url,
        event_types=list(commands),
        delivery_mode=delivery_mode,
        group_id=group_id,
        ttl_seconds=ttl_seconds,
        min_interval_seconds=min_interval_seconds,
    )
    return Call(_SERVICE + "CreateSubscription", request, pb.CreateSubscriptionResponse, _subscribed)


def renew(subscription_id: str, ttl_seconds: int | None) -> Call[Subscribed]:
    """Renews a subscription."""
    request = filled(pb.HeartbeatSubscriptionRequest, id=subscription_id, ttl_seconds=ttl_seconds)
    return Call(
        _SERVICE + "HeartbeatSubscription", request, pb.HeartbeatSubscriptionResponse, _subscribed, repeatable=True
    )


def subscription(subscription_id: str) -> Call[Subscription]:
    """Reads a subscription."""
    request = filled(pb.GetSubscriptionRequest, id=subscription_id)
    return Call(
        _SERVICE + "GetSubscription",
        request,
        pb.GetSubscriptionResponse,
        lambda reply: Subscription.from_message(reply.subscription),
        repeatable=True,
    )


def subscriptions(page_size: int, page_token: str) -> Call[SubscriptionPage]:
    """Reads a page of subscriptions."""
    request = filled(pb.ListSubscriptionsRequest, page_size=page_size, page_token=page_token)
    return Call(_SERVICE + "ListSubscriptions", request, pb.ListSubscriptionsResponse, _page, repeatable=True)


def unsubscribe(subscription_id: str) -> Call[None]:
    """Ends a subscription."""
    request = filled(pb.DeleteSubscriptionRequest, id=subscription_id)
    return Call(_SERVICE + "DeleteSubscription", request, pb.DeleteSubscriptionResponse, _nothing)


def _subscribed(reply: pb.CreateSubscriptionResponse | pb.HeartbeatSubscriptionResponse) -> Subscribed:
    return reply.subscription_id, to_datetime(reply.expires_at)


def _page(reply: pb.ListSubscriptionsResponse) -> SubscriptionPage:
    return [Subscription.from_message(each) for each in reply.subscriptions], reply.next_page_token


def _nothing(_: object) -> None:
    """Returns nothing: the reply is empty."""


class SubscriptionClient:
    """The calls of `Client` about subscriptions, for workers with the scope codeq:subscribe."""

    def subscribe(
        self,
        callback_url: str,
        commands: Collection[str] = (),
        *,
        delivery_mode: DeliveryMode = "fanout",
        group_id: str = "",
        ttl_seconds: int | None = None,
        min_interval_seconds: int | None = None,
    ) -> Subscribed:
        """Makes a subscription: the URL gets a request when work becomes ready. A lost reply may leave one behind.

        Args:
            callback_url: The URL, which must lead to a public address unless the operator allows others.
            commands: Commands whose work is signalled; empty: all that the token allows.
            delivery_mode: "fanout": every subscription gets each signal; "group": one member of the group in turn;
                "hash": one of all subscriptions with this mode, always the same for a command.
            group_id: Name of the group, for "group".
            ttl_seconds: Time to live without `renew_subscription`; None: 300.
            min_interval_seconds: Shortest time between two signals of one command; None: the server's default.

        Returns:
            Id of the subscription, and the time at which it ends.
        """
        return self._call(subscribe(callback_url, commands, delivery_mode, group_id, ttl_seconds, min_interval_seconds))

    def renew_subscription(self, subscription_id: str, ttl_seconds: int | None = None) -> Subscribed:
        """Makes a subscription last for its time to live from now on; NotFound if it has ended."""
        return self._call(renew(subscription_id, ttl_seconds))

    def subscription(self, subscription_id: str) -> Subscription:
        """Reads a subscription."""
        return self._call(subscription(subscription_id))

    def subscriptions(self, page_size: int = 0, page_token: str = "") -> SubscriptionPage:
        """Reads a page of the subscriptions whose commands the token allows, and the token of the next page."""
        return self._call(subscriptions(page_size, page_token))

    def unsubscribe(self, subscription_id: str) -> None:
        """Ends a subscription; NotFound if it has ended."""
        self._call(unsubscribe(subscription_id))

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncSubscriptionClient:
    """The calls of `AsyncClient` about subscriptions, for workers with the scope codeq:subscribe."""

    async def subscribe(
        self,
        callback_url: str,
        commands: Collection[str] = (),
        *,
        delivery_mode: DeliveryMode = "fanout",
        group_id: str = "",
        ttl_seconds: int | None = None,
        min_interval_seconds: int | None = None,
    ) -> Subscribed:
        """Makes a subscription; see Client.subscribe."""
        return await self._call(
            subscribe(callback_url, commands, delivery_mode, group_id, ttl_seconds, min_interval_seconds)
        )

    async def renew_subscription(self, subscription_id: str, ttl_seconds: int | None = None) -> Subscribed:
        """Makes a subscription last longer; see Client.renew_subscription."""
        return await self._call(renew(subscription_id, ttl_seconds))

    async def subscription(self, subscription_id: str) -> Subscription:
        """Reads a subscription."""
        return await self._call(subscription(subscription_id))

    async def subscriptions(self, page_size: int = 0, page_token: str = "") -> SubscriptionPage:
        """Reads a page of subscriptions; see Client.subscriptions."""
        return await self._call(subscriptions(page_size, page_token))

    async def unsubscribe(self, subscription_id: str) -> None:
        """Ends a subscription; see Client.unsubscribe."""
        await self._call(unsubscribe(subscription_id))

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
