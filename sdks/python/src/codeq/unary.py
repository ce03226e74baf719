"""Sending unary calls, in either style: over a channel to each server, and on to the one that leads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any, Final, TypeVar

import grpc

from codeq import cluster, errors
from codeq.calls import Call
from codeq.endpoint import Endpoint, Metadata
from codeq.following import Following, NotSent
from codeq.v1 import cluster_service_pb2

_NO_CONNECTION: Final = ("failed to connect to all addresses", "DNS resolution failed")
"""Beginnings of what gRPC says of a call for which there was no connection."""

_Value = TypeVar("_Value")


class Caller:
    """Sends calls that block. Threads may share one."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        self._guard = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}  # as many as there are known servers
        self._is_closed = False

    def call(self, call: Call[_Value]) -> _Value:
        """Send a call and return its value.

        Raises:
            CodeqError: It failed.
        """
        following = _following(self._endpoint, call, time.monotonic(), self._timeout_seconds)
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
        """Disconnect; calls under way fail."""
        with self._guard:
            self._is_closed = True
            for channel in self._channels.values():
                channel.close()

    def _send(self, call: Call[_Value], following: Following, timeout: float) -> Any:
        metadata = self._endpoint.metadata()
        channel = self._channel(following.address)
        try:
            send = channel.unary_unary(call.method, type(call.request).SerializeToString, call.reply.FromString)
            reply = send(call.request, timeout=timeout, metadata=metadata)
            self._refresh(channel, metadata)
        except grpc.RpcError as error:
            raise _failed(error) from None
        except ValueError:  # what grpc says of a closed channel
            raise _closed() from None
        return reply

    def _channel(self, address: str) -> grpc.Channel:
        with self._guard:
            if self._is_closed:
                raise _closed()
            if (channel := self._channels.get(address)) is None:
                channel = self._channels[address] = self._endpoint.channel(address)
            return channel

    def _refresh(self, channel: grpc.Channel, metadata: Metadata) -> None:
        """Ask for the members of the cluster from time to time; nobody waits for the answer."""
        if not self._endpoint.servers.is_refresh_due(time.monotonic()):
            return
        ask = channel.unary_unary(
            cluster.TOPOLOGY,
            cluster_service_pb2.GetTopologyRequest.SerializeToString,
            cluster_service_pb2.GetTopologyResponse.FromString,
        )
        request = cluster_service_pb2.GetTopologyRequest()
        asked = ask.future(request, timeout=cluster.TOPOLOGY_SECONDS_MAX, metadata=metadata)
        asked.add_done_callback(self._learn)

    def _learn(self, asked: Any) -> None:
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):  # it will be asked again
            self._endpoint.servers.learn(cluster.addresses(asked.result()))


class AsyncCaller:
    """Sends calls on one event loop."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def call(self, call: Call[_Value]) -> _Value:
        """Send a call and return its value; as Caller.call."""
        loop = asyncio.get_running_loop()
        following = _following(self._endpoint, call, loop.time(), self._timeout_seconds)
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
        """Disconnect; calls under way fail."""
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for channel in list(self._channels.values()):
            await channel.close()

    async def _send(self, call: Call[_Value], following: Following, timeout: float) -> Any:  # noqa: ASYNC109 - grpc's
        metadata = await self._endpoint.aio_metadata()
        if self._is_closed:
            raise _closed()
        address = following.address
        if (channel := self._channels.get(address)) is None:
            channel = self._channels[address] = self._endpoint.aio_channel(address)
        send: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            call.method, type(call.request).SerializeToString, call.reply.FromString
        )
        try:
            reply = await send(call.request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        if self._endpoint.servers.is_refresh_due(asyncio.get_running_loop().time()) and not self._is_closed:
            self._refreshing = asyncio.create_task(self._endpoint.refresh(channel, metadata), name="codeq-topology")
        return reply


def _following(endpoint: Endpoint, call: Call[_Value], now: float, timeout: float) -> Following:
    return Following(endpoint.servers, repeatable=call.repeatable, now=now, timeout=timeout, wait=call.wait_seconds)


def _failed(error: grpc.RpcError) -> errors.CodeqError:
    """The typed error of a call; gRPC says only in words that there was no connection, and so nothing was sent."""
    failed = errors.from_rpc(error)
    if isinstance(failed, errors.Unavailable) and failed.message.startswith(_NO_CONNECTION):
        return NotSent(failed.message)
    return failed


def _closed() -> errors.CodeqError:
    return errors.Closed("the client is closed")
