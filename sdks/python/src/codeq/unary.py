"""Sends unary calls, blocking or async: one channel per server, following the leader."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from codeq import arguments, cluster, errors
from codeq.async_transport import AsyncChannel
from codeq.blocking_transport import BlockingChannel
from codeq.calls import Call
from codeq.dialing import aside
from codeq.endpoint import Endpoint
from codeq.following import Following
from codeq.ownership import Owner
from codeq.rpc import Metadata
from codeq.v1 import cluster_service_pb2

_Value = TypeVar("_Value")


class Caller:
    """Sends blocking calls. Safe for threads and signal handlers."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float, owner: Owner) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = arguments.seconds(timeout_seconds, "timeout_seconds")
        self._owner = owner
        self._channels: dict[str, BlockingChannel] = {}  # bounded by the number of known servers
        self._is_closed = False

    def call(self, call: Call[_Value], timeout_seconds: float | None = None) -> _Value:
        """Sends a call and returns its value.

        Args:
            call: The call.
            timeout_seconds: Seconds within which the call ends, not counting its `wait`; None: the client's timeout.

        Raises:
            CodeqError: The call failed.
        """
        self._owner.check()
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        following = _following(self._endpoint, call, time.monotonic(), seconds)
        while True:
            timeout = following.timeout(time.monotonic())
            try:
                reply = self._send(call, following, timeout)
            except errors.CodeqError as error:
                delay = following.delay_after(error, time.monotonic())
                if delay is None:
                    raise
            else:
                following.succeeded()
                return call.convert(reply)
            time.sleep(delay)

    def close(self) -> None:
        """Disconnects; calls in flight fail. Does nothing in a forked child: the connections are the parent's."""
        if self._owner.is_here:
            self._is_closed = True
            for channel in self._channels.copy().values():
                channel.close()

    def _send(self, call: Call[_Value], following: Following, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        metadata = self._endpoint.metadata(timeout)
        if self._is_closed:
            raise _closed()
        channel = self._channels.get(following.address)
        if channel is None:  # two threads may each make a channel; only one is kept
            channel = self._channels.setdefault(following.address, self._endpoint.channel(following.address))
        left = max(0.0, deadline - time.monotonic())
        reply = decoded(call, channel.unary(call.method, call.request.SerializeToString(), metadata, left))
        self._refresh(channel, metadata)
        return reply

    def _refresh(self, channel: BlockingChannel, metadata: Metadata) -> None:
        """Refreshes the members of the cluster in the background, at most once every REFRESH_SECONDS."""
        if threading.main_thread().is_alive() and self._endpoint.servers.is_refresh_due(time.monotonic()):
            aside(lambda: self._learn(channel, metadata))

    def _learn(self, channel: BlockingChannel, metadata: Metadata) -> None:
        with contextlib.suppress(errors.CodeqError, DecodeError):  # the next refresh asks again
            reply = channel.unary(cluster.TOPOLOGY, cluster.QUESTION, metadata, cluster.TOPOLOGY_SECONDS_MAX)
            self._endpoint.servers.learn(cluster.addresses(cluster_service_pb2.GetTopologyResponse.FromString(reply)))


class AsyncCaller:
    """Sends calls on one event loop; moves to another loop once the first is closed."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float, owner: Owner) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = arguments.seconds(timeout_seconds, "timeout_seconds")
        self._owner = owner
        self._channels: dict[str, AsyncChannel] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def call(self, call: Call[_Value], timeout_seconds: float | None = None) -> _Value:
        """Sends a call and returns its value; see Caller.call."""
        self._owner.check()
        loop = asyncio.get_running_loop()
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        following = _following(self._endpoint, call, loop.time(), seconds)
        while True:
            timeout = following.timeout(loop.time())
            try:
                reply = await self._send(call, following, timeout)
            except errors.CodeqError as error:
                delay = following.delay_after(error, loop.time())
                if delay is None:
                    raise
            else:
                following.succeeded()
                return call.convert(reply)
            await asyncio.sleep(delay)

    async def close(self) -> None:
        """Disconnects; calls in flight fail. Does nothing in a forked child: the connections are the parent's."""
        if not self._owner.is_here:
            return
        self._is_closed = True
        if self._refreshing is not None and not self._refreshing.done():
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for channel in list(self._channels.values()):
            await channel.close()

    async def _send(self, call: Call[_Value], following: Following, timeout: float) -> Any:  # noqa: ASYNC109 - of the attempt
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(timeout):
                metadata = await self._endpoint.aio_metadata()
        except TimeoutError:
            raise errors.Unavailable("no token: the token function did not return in time") from None
        if self._is_closed:
            raise _closed()
        channel = self._channel(following.address, loop)
        left = max(0.0, timeout - (loop.time() - begun))
        try:
            reply = decoded(call, await channel.unary(call.method, call.request.SerializeToString(), metadata, left))
        except errors.Unavailable:
            if self._is_closed:
                raise _closed() from None
            raise
        if self._endpoint.servers.is_refresh_due(loop.time()) and not self._is_closed:
            self._refreshing = loop.create_task(self._endpoint.refresh(channel, metadata), name="codeq-topology")
            self._refreshing.add_done_callback(self._forget)
        return reply

    def _forget(self, refreshing: asyncio.Task[None]) -> None:
        """Drops a task that has ended: if it was cancelled with its loop, it holds on to a connection of that loop."""
        if self._refreshing is refreshing:
            self._refreshing = None

    def _channel(self, address: str, loop: asyncio.AbstractEventLoop) -> AsyncChannel:
        channel = self._channels.get(address)
        if channel is None or channel.loop is not loop:
            check_loop(None if channel is None else channel.loop)
            channel = self._channels[address] = self._endpoint.aio_channel(address)
        return channel


def check_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Checks that the first event loop of an object is closed before a second one uses the object.

    Raises:
        RuntimeError: The loop is not closed.
    """
    if loop is not None and not loop.is_closed():
        raise RuntimeError("already in use on another event loop: create one per loop")


def decoded(call: Call[Any], reply: bytes) -> Any:
    """Decodes the reply of a call.

    Raises:
        ServerFault: The reply is malformed.
    """
    try:
        return call.reply.FromString(reply)
    except DecodeError:
        raise errors.ServerFault("the reply cannot be decoded") from None


def _following(endpoint: Endpoint, call: Call[_Value], now: float, timeout: float) -> Following:
    return Following(endpoint.servers, repeatable=call.repeatable, now=now, timeout=timeout, wait=call.wait_seconds)


def _closed() -> errors.CodeqError:
    return errors.Closed("the client is closed")
