"""Calls about callbacks and their receivers, and the methods with which the clients make them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from codeq import arguments
from codeq.callback_records import Callback, Callbacks, CallbackState, WebhookAnswer, WebhookSecrets
from codeq.calls import Call, filled
from codeq.v1 import webhook_service_pb2 as pb

_SERVICE: Final = "/codeq.v1.WebhookService/"
_ANY: Final = CallbackState.UNSPECIFIED
_Value = TypeVar("_Value")


def task_callbacks(task_id: str) -> Call[list[Callback]]:
    """Reads the callbacks of a task."""
    return Call(
        _SERVICE + "ListTaskCallbacks",
        filled(pb.ListTaskCallbacksRequest, task_id=task_id),
        pb.ListTaskCallbacksResponse,
        lambda reply: [Callback.from_message(each) for each in reply.callbacks],
        repeatable=True,
    )


def callbacks(command: str, state: str, page_size: int, page_token: str, tenant: str) -> Call[Callbacks]:
    """Reads a page of the callbacks of a command."""
    request = filled(
        pb.ListCallbacksRequest,
        command=command,
        state=f"CALLBACK_STATE_{state}",
        page_size=page_size,
        page_token=page_token,
        tenant=tenant,
    )
    name = _SERVICE + "ListCallbacks"
    return Call(name, request, pb.ListCallbacksResponse, Callbacks.from_message, repeatable=True)


def retry_task_callbacks(task_id: str, tenant: str) -> Call[int]:
    """Attempts the callbacks of a task at once; the value is their number."""
    request = filled(pb.RetryTaskCallbacksRequest, task_id=task_id, tenant=tenant)
    name = _SERVICE + "RetryTaskCallbacks"
    return Call(name, request, pb.RetryTaskCallbacksResponse, lambda reply: int(reply.retried))


def retry_callbacks(
    command: str, ended_from: datetime | None, ended_to: datetime | None, page_token: str, tenant: str
) -> Call[tuple[int, str]]:
    """Attempts callbacks of a command at once; the value is their number and the token of the next call."""
    fields = {"command": command, "from": ended_from, "to": ended_to, "page_token": page_token, "tenant": tenant}
    return Call(
        _SERVICE + "RetryCallbacks",
        filled(pb.RetryCallbacksRequest, **fields),
        pb.RetryCallbacksResponse,
        lambda reply: (reply.retried, reply.next_page_token),
    )


def put_webhook_secrets(secrets: Sequence[str], endpoint: str, tenant: str) -> Call[WebhookSecrets]:
    """Sets the secrets of an endpoint."""
    given = arguments.several(secrets, "secrets")
    request = filled(pb.PutWebhookSecretsRequest, endpoint=endpoint, secrets=given, tenant=tenant)
    return Call(
        _SERVICE + "PutWebhookSecrets",
        request,
        pb.PutWebhookSecretsResponse,
        lambda reply: WebhookSecrets.from_message(reply.secrets),
        repeatable=True,
    )


def webhook_secrets(tenant: str) -> Call[list[WebhookSecrets]]:
    """Reads which endpoints have secrets."""
    return Call(
        _SERVICE + "GetWebhookSecrets",
        filled(pb.GetWebhookSecretsRequest, tenant=tenant),
        pb.GetWebhookSecretsResponse,
        lambda reply: [WebhookSecrets.from_message(each) for each in reply.endpoints],
        repeatable=True,
    )


def delete_webhook_secrets(endpoint: str, tenant: str) -> Call[None]:
    """Removes the secrets of an endpoint."""
    request = filled(pb.DeleteWebhookSecretsRequest, endpoint=endpoint, tenant=tenant)
    name = _SERVICE + "DeleteWebhookSecrets"
    return Call(name, request, pb.DeleteWebhookSecretsResponse, lambda _: None, repeatable=True)


def pause_webhooks(host: str, tenant: str) -> Call[list[str]]:
    """Pauses the callbacks to a host; the value is the paused hosts."""
    request = filled(pb.PauseWebhooksRequest, host=host, tenant=tenant)
    return Call(_SERVICE + "PauseWebhooks", request, pb.PauseWebhooksResponse, _paused_hosts, repeatable=True)


def resume_webhooks(host: str, tenant: str) -> Call[list[str]]:
    """Resumes the callbacks to a host; the value is the hosts that are still paused."""
    request = filled(pb.ResumeWebhooksRequest, host=host, tenant=tenant)
    return Call(_SERVICE + "ResumeWebhooks", request, pb.ResumeWebhooksResponse, _paused_hosts, repeatable=True)


def test_webhook(url: str, tenant: str) -> Call[WebhookAnswer]:
    """Sends a callback of a task that does not exist."""
    request = filled(pb.TestWebhookRequest, url=url, tenant=tenant)
    return Call(_SERVICE + "TestWebhook", request, pb.TestWebhookResponse, WebhookAnswer.from_message)


def _paused_hosts(reply: Any) -> list[str]:
    return list(reply.paused_hosts)


class CallbackClient:
    """The calls of `Client` about callbacks, for administrators; viewers may read, and everybody their own tasks'."""

    def task_callbacks(self, task_id: str) -> list[Callback]:
        """Reads the callbacks of a task, oldest first: one for each of its last ten ends. Raises TaskNotFound."""
        return self._call(task_callbacks(task_id))

    def callbacks(
        self, command: str, state: str = _ANY, page_size: int = 0, page_token: str = "", *, tenant: str = ""
    ) -> Callbacks:
        """Reads a page of the callbacks of a command that are not delivered, in the order in which their tasks ended.

        Args:
            command: Command of the tasks.
            state: Only callbacks in this CallbackState; UNSPECIFIED: every state but DELIVERED.
            page_size: Maximum number of callbacks in the page, at most 500; 0: 100.
            page_token: Token from the previous page, read with the same filters.
            tenant: Tenant to act on, for operators; empty: the token's.

        Raises:
            QueueNotFound: The command has no queue.
        """
        return self._call(callbacks(command, state, page_size, page_token, tenant))

    def retry_task_callbacks(self, task_id: str, *, tenant: str = "") -> int:
        """Attempts at once the callbacks of a task that were given up or wait; returns their number.

        They keep their ids and get all their retries again. Raises TaskNotFound.
        """
        return self._call(retry_task_callbacks(task_id, tenant))

    def retry_callbacks(
        self,
        command: str,
        *,
        ended_from: datetime | None = None,
        ended_to: datetime | None = None,
        page_token: str = "",
        tenant: str = "",
    ) -> tuple[int, str]:
        """Attempts at once the callbacks of a command that were given up. They get all their retries again.

        Args:
            command: Command of the tasks.
            ended_from: Only callbacks of tasks that ended at or after this time, which needs a time zone.
            ended_to: Only callbacks of tasks that ended before this time, which needs a time zone.
            page_token: Token that the previous call returned.
            tenant: Tenant to act on, for operators; empty: the token's.

        Returns:
            Number of callbacks, and the token of the next call; empty: all callbacks were examined.

        Raises:
            QueueNotFound: The command has no queue.
        """
        return self._call(retry_callbacks(command, ended_from, ended_to, page_token, tenant))

    def put_webhook_secrets(self, secrets: Sequence[str], endpoint: str = "", *, tenant: str = "") -> WebhookSecrets:
        """Sets the secrets that sign requests to an endpoint.

        Args:
            secrets: One or two secrets of 16 to 128 printable ASCII characters, newest first.
            endpoint: URL without query and fragment; empty: all endpoints without secrets of their own.
            tenant: Tenant to act on, for operators; empty: the token's.

        Raises:
            InvalidField: The endpoint or a secret is malformed.
            LimitReached: The tenant has settings for 1000 endpoints and hosts.
        """
        return self._call(put_webhook_secrets(secrets, endpoint, tenant))

    def webhook_secrets(self, *, tenant: str = "") -> list[WebhookSecrets]:
        """Reads which endpoints have secrets, with fingerprints of the secrets."""
        return self._call(webhook_secrets(tenant))

    def delete_webhook_secrets(self, endpoint: str = "", *, tenant: str = "") -> None:
        """Removes the secrets of an endpoint; empty: those for all endpoints without secrets of their own."""
        self._call(delete_webhook_secrets(endpoint, tenant))

    def pause_webhooks(self, host: str, *, tenant: str = "") -> list[str]:
        """Has the tenant's callbacks to a host, such as "hooks.example.com:443", wait; returns the paused hosts."""
        return self._call(pause_webhooks(host, tenant))

    def resume_webhooks(self, host: str, *, tenant: str = "") -> list[str]:
        """Delivers the callbacks to a host again; returns the hosts that are still paused."""
        return self._call(resume_webhooks(host, tenant))

    def test_webhook(self, url: str, *, tenant: str = "") -> WebhookAnswer:
        """Sends one signed callback of a task that does not exist to a URL, and returns the answer.

        Raises:
            InvalidField: The URL is malformed.
            InvalidRequest: The server may not call the address (URL_NOT_ALLOWED).
            LimitReached: 8 tests are under way, or the host has as many requests as it may have.
        """
        return self._call(test_webhook(url, tenant))

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncCallbackClient:
    """The calls of `AsyncClient` about callbacks."""

    async def task_callbacks(self, task_id: str) -> list[Callback]:
        """Reads the callbacks of a task; see Client.task_callbacks."""
        return await self._call(task_callbacks(task_id))

    async def callbacks(
        self, command: str, state: str = _ANY, page_size: int = 0, page_token: str = "", *, tenant: str = ""
    ) -> Callbacks:
        """Reads a page of the callbacks of a command; see Client.callbacks."""
        return await self._call(callbacks(command, state, page_size, page_token, tenant))

    async def retry_task_callbacks(self, task_id: str, *, tenant: str = "") -> int:
        """Attempts the callbacks of a task at once; see Client.retry_task_callbacks."""
        return await self._call(retry_task_callbacks(task_id, tenant))

    async def retry_callbacks(
        self,
        command: str,
        *,
        ended_from: datetime | None = None,
        ended_to: datetime | None = None,
        page_token: str = "",
        tenant: str = "",
    ) -> tuple[int, str]:
        """Attempts callbacks of a command at once; see Client.retry_callbacks."""
        return await self._call(retry_callbacks(command, ended_from, ended_to, page_token, tenant))

    async def put_webhook_secrets(
        self, secrets: Sequence[str], endpoint: str = "", *, tenant: str = ""
    ) -> WebhookSecrets:
        """Sets the secrets of an endpoint; see Client.put_webhook_secrets."""
        return await self._call(put_webhook_secrets(secrets, endpoint, tenant))

    async def webhook_secrets(self, *, tenant: str = "") -> list[WebhookSecrets]:
        """Reads which endpoints have secrets; see Client.webhook_secrets."""
        return await self._call(webhook_secrets(tenant))

    async def delete_webhook_secrets(self, endpoint: str = "", *, tenant: str = "") -> None:
        """Removes the secrets of an endpoint; see Client.delete_webhook_secrets."""
        await self._call(delete_webhook_secrets(endpoint, tenant))

    async def pause_webhooks(self, host: str, *, tenant: str = "") -> list[str]:
        """Has the callbacks to a host wait; see Client.pause_webhooks."""
        return await self._call(pause_webhooks(host, tenant))

    async def resume_webhooks(self, host: str, *, tenant: str = "") -> list[str]:
        """Delivers the callbacks to a host again; see Client.resume_webhooks."""
        return await self._call(resume_webhooks(host, tenant))

    async def test_webhook(self, url: str, *, tenant: str = "") -> WebhookAnswer:
        """Sends a callback of a task that does not exist to a URL; see Client.test_webhook."""
        return await self._call(test_webhook(url, tenant))

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
