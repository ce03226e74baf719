"""Calls about policies of commands, and the methods with which the clients make them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, TypeVar

from codeq.calls import Call, filled
from codeq.errors import FieldViolation, InvalidField
from codeq.topic_records import QueuePolicy, Topic
from codeq.v1 import topic_service_pb2 as pb

_SERVICE: Final = "/codeq.v1.TopicService/"
_DELETE: Final = "Delete"
_Value = TypeVar("_Value")


def put_topic(command: str, policy: QueuePolicy, of: str) -> Call[Topic]:
    """Sets the policy of a command."""
    request = filled(pb.PutTopicRequest, command=command, tenant=of)
    try:
        request.policy.CopyFrom(policy.to_message())
    except (TypeError, ValueError) as error:
        raise InvalidField(f"policy: {error}", violations=[FieldViolation("policy", str(error))]) from None
    return Call(_SERVICE + "PutTopic", request, pb.PutTopicResponse, _topic_of, repeatable=True)


def topic(command: str, of: str) -> Call[Topic]:
    """Reads the policy of a command."""
    request = filled(pb.GetTopicRequest, command=command, tenant=of)
    return Call(_SERVICE + "GetTopic", request, pb.GetTopicResponse, _topic_of, repeatable=True)


def topics(page_size: int, page_token: str, of: str) -> Call[tuple[list[Topic], str]]:
    """Reads a page of topics; the value is the page and the token of the next page."""
    return Call(
        _SERVICE + "ListTopics",
        filled(pb.ListTopicsRequest, page_size=page_size, page_token=page_token, tenant=of),
        pb.ListTopicsResponse,
        lambda reply: ([Topic.from_message(each) for each in reply.topics], reply.next_page_token),
        repeatable=True,
    )


def delete_topic(command: str, of: str) -> Call[None]:
    """Removes the policy of a command."""
    request = filled(pb.DeleteTopicRequest, command=command, deletion_policy=_DELETE, tenant=of)
    return Call(_SERVICE + "DeleteTopic", request, pb.DeleteTopicResponse, lambda _: None, repeatable=True)


def _topic_of(reply: pb.PutTopicResponse | pb.GetTopicResponse) -> Topic:
    return Topic.from_message(reply.topic)


class TopicClient:
    """The calls of `Client` about policies of commands."""

    def put_topic(self, command: str, policy: QueuePolicy, *, tenant: str = "") -> Topic:
        """Sets the whole policy of a command, whose queue need not exist; for administrators.

        It takes effect at once. Raises InvalidPolicy, whose `violations` name the field.
        """
        return self._call(put_topic(command, policy, tenant))

    def topic(self, command: str, *, tenant: str = "") -> Topic:
        """Reads the policy of a command; for administrators and viewers. Raises TopicNotFound."""
        return self._call(topic(command, tenant))

    def topics(self, page_size: int = 0, page_token: str = "", *, tenant: str = "") -> tuple[list[Topic], str]:
        """Reads a page of topics, ordered by command, and the token of the next page (empty: none)."""
        return self._call(topics(page_size, page_token, tenant))

    def delete_topic(self, command: str, *, tenant: str = "") -> None:
        """Removes the policy of a command, if it has one; its queue and tasks stay."""
        self._call(delete_topic(command, tenant))

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncTopicClient:
    """The calls of `AsyncClient` about policies of commands."""

    async def put_topic(self, command: str, policy: QueuePolicy, *, tenant: str = "") -> Topic:
        """Sets the whole policy of a command; see Client.put_topic."""
        return await self._call(put_topic(command, policy, tenant))

    async def topic(self, command: str, *, tenant: str = "") -> Topic:
        """Reads the policy of a command; see Client.topic."""
        return await self._call(topic(command, tenant))

    async def topics(self, page_size: int = 0, page_token: str = "", *, tenant: str = "") -> tuple[list[Topic], str]:
        """Reads a page of topics; see Client.topics."""
        return await self._call(topics(page_size, page_token, tenant))

    async def delete_topic(self, command: str, *, tenant: str = "") -> None:
        """Removes the policy of a command; see Client.delete_topic."""
        await self._call(delete_topic(command, tenant))

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
