"""Public values: callbacks, and what is set for their receivers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Self

from codeq.records import TaskStatus, to_datetime
from codeq.v1 import webhook_service_pb2 as pb


class CallbackState(StrEnum):
    """State of a callback."""

    UNSPECIFIED = "UNSPECIFIED"
    """As a filter: every state but DELIVERED."""
    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    GAVE_UP = "GAVE_UP"

    @classmethod
    def from_number(cls, number: int) -> CallbackState:
        """Returns the state for a number on the wire; UNSPECIFIED for a number that only a newer server knows."""
        return _STATE_BY_NUMBER.get(number, cls.UNSPECIFIED)


class HostHold(StrEnum):
    """Why a host gets no callbacks at the moment."""

    UNSPECIFIED = "UNSPECIFIED"
    """A reason that only a newer server knows."""
    PAUSED = "PAUSED"
    """An administrator has paused it."""
    DISABLED = "DISABLED"
    """The server has paused it, because every attempt failed for too long."""
    FAILING = "FAILING"
    """It keeps failing and is left alone until the next attempt."""

    @classmethod
    def from_number(cls, number: int) -> HostHold:
        """Returns the reason for a number on the wire; UNSPECIFIED for a number that only a newer server knows."""
        return _HOLD_BY_NUMBER.get(number, cls.UNSPECIFIED)


_STATE_BY_NUMBER: Final = {
    value.number: CallbackState(value.name.removeprefix("CALLBACK_STATE_"))
    for value in pb.CallbackState.DESCRIPTOR.values
}


_HOLD_BY_NUMBER: Final = {
    value.number: HostHold(value.name.removeprefix("HOST_HOLD_")) for value in pb.HostHold.DESCRIPTOR.values
}


@dataclass(frozen=True, slots=True)
class CallbackAttempt:
    """An attempt to deliver a callback.

    Attributes:
        at: Start of the attempt.
        status: HTTP status of the answer; 0: there was no answer.
        duration_ms: Duration in milliseconds.
        error: Why there was no answer, at most 256 characters.
    """

    at: datetime
    status: int
    duration_ms: int
    error: str

    @classmethod
    def from_message(cls, message: pb.CallbackAttempt) -> Self:
        """Returns the attempt in a message."""
        return cls(to_datetime(message.at), message.status, message.duration_ms, message.error)


@dataclass(frozen=True, slots=True)
class Callback:
    """The report of a task's end to the task's webhook.

    Attributes:
        delivery_id: Id, the same in every attempt: the header webhook-id.
        task_id: Task that ended.
        status: Status with which it ended.
        completed_at: Time at which it ended.
        url: URL of the webhook; None for viewers.
        state: State of the callback.
        attempts_total: Number of attempts so far.
        next_attempt_at: Time of the next attempt; None: it waits for none.
        attempts: The last ten attempts, oldest first.
    """

    delivery_id: str
    task_id: str
    status: TaskStatus
    completed_at: datetime
    url: str | None
    state: CallbackState
    attempts_total: int
    next_attempt_at: datetime | None
    attempts: tuple[CallbackAttempt, ...]

    @classmethod
    def from_message(cls, message: pb.Callback) -> Self:
        """Returns the callback in a message."""
        return cls(
            delivery_id=message.delivery_id,
            task_id=message.task_id,
            status=TaskStatus.from_number(message.status),
            completed_at=to_datetime(message.completed_at),
            url=message.url if message.HasField("url") else None,
            state=CallbackState.from_number(message.state),
            attempts_total=message.attempts_total,
            next_attempt_at=to_datetime(message.next_attempt_at) if message.HasField("next_attempt_at") else None,
            attempts=tuple(CallbackAttempt.from_message(each) for each in message.attempts),
        )


@dataclass(frozen=True, slots=True)
class HeldHost:
    """A host that gets no callbacks at the moment.

    Attributes:
        host: Host and port, such as hooks.example.com:443.
        reason: Why.
        since: Time since which it has been paused; None if it is FAILING.
        until: Time of the next attempt; None unless it is FAILING.
    """

    host: str
    reason: HostHold
    since: datetime | None
    until: datetime | None

    @classmethod
    def from_message(cls, message: pb.HeldHost) -> Self:
        """Returns the host in a message."""
        return cls(
            host=message.host,
            reason=HostHold.from_number(message.reason),
            since=to_datetime(message.since) if message.HasField("since") else None,
            until=to_datetime(message.until) if message.HasField("until") else None,
        )


@dataclass(frozen=True, slots=True)
class Callbacks:
    """A page of the callbacks of a command.

    Attributes:
        callbacks: Callbacks, in the order in which their tasks ended.
        paused_hosts: Hosts whose callbacks are paused.
        held_hosts: Hosts that get none at the moment: those paused, and those of these callbacks that keep failing.
        next_page_token: Token of the next page; empty: none.
    """

    callbacks: list[Callback]
    paused_hosts: list[str]
    held_hosts: list[HeldHost]
    next_page_token: str

    @classmethod
    def from_message(cls, message: pb.ListCallbacksResponse) -> Self:
        """Returns the page in a reply."""
        callbacks = [Callback.from_message(each) for each in message.callbacks]
        held = [HeldHost.from_message(each) for each in message.held_hosts]
        return cls(callbacks, list(message.paused_hosts), held, message.next_page_token)


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """Which secrets sign requests to an endpoint, without the secrets.

    Attributes:
        endpoint: URL without its query; empty: all endpoints without secrets of their own.
        fingerprints: First 16 hexadecimal digits of the SHA-256 of each secret, newest first.
        changed_at: Time of the last change.
    """

    endpoint: str
    fingerprints: tuple[str, ...]
    changed_at: datetime

    @classmethod
    def from_message(cls, message: pb.WebhookSecrets) -> Self:
        """Returns the fingerprints in a message."""
        return cls(message.endpoint, tuple(message.fingerprints), to_datetime(message.changed_at))


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    """The answer of an endpoint to a test.

    Attributes:
        status: HTTP status; 0: there was no answer.
        error: Why there was no answer.
        duration_ms: Duration in milliseconds.
        excerpt: First 1024 bytes of the answer's body, as text.
    """

    status: int
    error: str
    duration_ms: int
    excerpt: str

    @classmethod
    def from_message(cls, message: pb.TestWebhookResponse) -> Self:
        """Returns the answer in a reply."""
        return cls(message.status, message.error, message.duration_ms, message.excerpt)
