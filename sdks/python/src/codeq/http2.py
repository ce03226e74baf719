"""The client side of one HTTP/2 connection, built on the package h2; calls are streams. Pure; no I/O.

It adds two things to h2: it queues data until the server's windows have room, and a GOAWAY ends no stream in flight. h2
considers a connection closed at the first GOAWAY, but a server that shuts down gracefully still answers the calls it
accepted.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from h2 import config, connection, events, exceptions, settings

FRAME_BYTES_MAX: Final = 1 << 20
"""Largest frame accepted from a server."""

WINDOW_BYTES: Final = 8 << 20
"""Bytes that a server may send on a stream, and on the connection, beyond those consumed."""

HEADER_BYTES_MAX: Final = 64 * 1024
"""Largest header block, uncompressed, and largest frame other than DATA."""

CANCEL: Final = 8
"""Error code with which a client cancels a stream."""

_HEAD_BYTES: Final = 9
_DATA: Final = 0
_GOAWAY: Final = 7
_GOAWAY_BYTES_MIN: Final = 8
_STREAM_ID_MAX: Final = 2**31 - 1
_WINDOW_FIRST: Final = 65_535

Headers = list[tuple[bytes, bytes]]


class ProtocolError(Exception):
    """The server violates HTTP/2; the connection is unusable."""


class HeadersReceived(NamedTuple):
    """A header block of a stream: headers or trailers."""

    stream: int
    headers: Headers
    is_end: bool


class DataReceived(NamedTuple):
    """Data of a stream; `size` is its flow-controlled length, padding included."""

    stream: int
    data: bytes
    size: int
    is_end: bool


class StreamReset(NamedTuple):
    """The server reset a stream."""

    stream: int
    code: int


class GoingAway(NamedTuple):
    """The server accepts no further streams, and has not processed streams with numbers above the last one."""

    last_stream: int
    code: int
    text: str


Event = HeadersReceived | DataReceived | StreamReset | GoingAway


class _Outgoing:
    """The unsent data of a stream whose sending side is open."""

    __slots__ = ("is_ending", "queue", "queued")

    def __init__(self) -> None:
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.is_ending = False


class Http2:
    """The state of one connection.

    Attributes:
        is_greeted: Whether the server's settings have arrived.
    """

    def __init__(self) -> None:
        """Starts a connection; `take` returns its first bytes."""
        self.is_greeted = False
        # Unchecked headers: h2 ends the connection, with all its calls, at values that servers do send, such as a
        # message that ends with a blank.
        options = config.H2Configuration(client_side=True, header_encoding=None, validate_inbound_headers=False)
        self._h2 = connection.H2Connection(options)
        self._h2.local_settings = settings.Settings(
            client=True,
            initial_values={
                settings.SettingCodes.ENABLE_PUSH: 0,
                settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                settings.SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES_MAX,
                settings.SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_BYTES_MAX,
            },
        )
        self._h2.max_inbound_frame_size = FRAME_BYTES_MAX
        self._h2.decoder.max_header_list_size = HEADER_BYTES_MAX
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_BYTES - _WINDOW_FIRST)
        self._outgoing: dict[int, _Outgoing] = {}
        self._unread: dict[int, int] = {}  # bytes of each stream not consumed yet
        self._head = bytearray()  # header of a frame not yet passed to h2
        self._farewell: bytearray | None = None  # payload of a GOAWAY
        self._left = 0  # bytes of the frame that have not arrived yet
        self._has_left = False  # nothing may be sent any more

    @property
    def streams_max(self) -> int:
        """Maximum number of streams that the server allows to be open at once."""
        return self._h2.remote_settings.max_concurrent_streams

    @property
    def is_used_up(self) -> bool:
        """Whether no further stream can be opened: the client has sent GOAWAY, or the stream ids are used up."""
        return self._has_left or (self._h2.highest_outbound_stream_id or 0) + 2 > _STREAM_ID_MAX

    def take(self) -> bytes:
        """Returns the bytes to send now."""
        return self._h2.data_to_send()

    def open(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        """Opens a stream with its headers; returns its number."""
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, list(headers))
        self._outgoing[number] = _Outgoing()
        self._unread[number] = 0
        return number

    def send(self, number: int, data: bytes, *, is_end: bool) -> None:
        """Sends data as far as the windows allow and queues the rest; `is_end` closes the stream's sending side."""
        if (outgoing := self._outgoing.get(number)) is None:
            return
        if data:
            outgoing.queue.append(memoryview(data))
            outgoing.queued += len(data)
        outgoing.is_ending = is_end
        self._pump(number, outgoing)

    def queued(self, number: int) -> int:
        """Returns the number of a stream's bytes waiting for the windows."""
        outgoing = self._outgoing.get(number)
        return 0 if outgoing is None else outgoing.queued

    def reset(self, number: int, code: int = CANCEL) -> None:
        """Resets a stream."""
        self.forget(number)
        if not self._has_left:
            with contextlib.suppress(exceptions.StreamClosedError):
                self._h2.reset_stream(number, code)

    def forget(self, number: int) -> bool:
        """Drops the state of a stream that is over; returns whether its sending side was still open."""
        self.consumed(number, self._unread.get(number, 0))  # all streams share the connection's window
        self._unread.pop(number, None)
        return self._outgoing.pop(number, None) is not None

    def consumed(self, number: int, size: int) -> None:
        """Gives back window for consumed data; h2 sends the update once it is worth a frame."""
        size = min(size, self._unread.get(number, 0))
        if size and not self._has_left:
            self._unread[number] -= size
            self._h2.acknowledge_received_data(size, number)

    def ping(self) -> None:
        """Queues a PING."""
        if not self._has_left:
            self._h2.ping(bytes(8))

    def leave(self) -> None:
        """Queues a GOAWAY; nothing is sent after it."""
        if not self._has_left:
            self._h2.close_connection()
            self._has_left = True

    def receive(self, data: bytes) -> list[Event]:
        """Parses bytes from the server; returns the events in them.

        Raises:
            ProtocolError: The bytes are not valid HTTP/2. Nothing is sent from now on, except h2's GOAWAY.
        """
        if not self.is_greeted and (bytes(self._head) + data).startswith(b"HTTP/"):
            raise ProtocolError("the server speaks HTTP/1.1: is this its gRPC address?")
        found: list[Event] = []
        try:
            rest = memoryview(data)
            while rest:
                rest = self._take(rest, found)
        except (exceptions.H2Error, ValueError, IndexError) as error:
            self._has_left = True
            raise ProtocolError(f"not HTTP/2: {error or type(error).__name__}") from error
        return found

    def _take(self, data: memoryview, found: list[Event]) -> memoryview:
        """Passes the next bytes to h2, but keeps the bytes of a GOAWAY; returns the rest."""
        if not self._left:
            missing = _HEAD_BYTES - len(self._head)
            self._head += data[:missing]
            if len(self._head) == _HEAD_BYTES:
                self._begin_frame(found)
            return data[missing:]
        part = data[: self._left]
        self._left -= len(part)
        if self._farewell is None:
            self._tell_h2(bytes(part), found)
        else:
            self._farewell += part
            if not self._left:
                found.append(_going_away(bytes(self._farewell)))
                self._farewell = None
        return data[len(part) :]

    def _begin_frame(self, found: list[Event]) -> None:
        head, self._head = bytes(self._head), bytearray()
        kind, self._left = head[3], int.from_bytes(head[:3])
        # h2 checks a frame's size only once it is complete, and limits header blocks by number of frames.
        if self._left > (FRAME_BYTES_MAX if kind == _DATA else HEADER_BYTES_MAX):
            raise ProtocolError(f"a frame of {self._left} bytes")
        if kind != _GOAWAY:
            self._tell_h2(head, found)
        elif self._left >= _GOAWAY_BYTES_MIN:
            self._farewell = bytearray()
        else:
            raise ProtocolError(f"a GOAWAY of {self._left} bytes")

    def _tell_h2(self, data: bytes, found: list[Event]) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, events.DataReceived):
                is_end = event.stream_ended is not None
                if event.stream_id in self._unread:
                    self._unread[event.stream_id] += event.flow_controlled_length
                found.append(DataReceived(event.stream_id, event.data, event.flow_controlled_length, is_end))
            elif isinstance(event, events.ResponseReceived | events.TrailersReceived):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                found.append(HeadersReceived(event.stream_id, headers, event.stream_ended is not None))
            elif isinstance(event, events.StreamReset):
                self._outgoing.pop(event.stream_id, None)
                found.append(StreamReset(event.stream_id, int(event.error_code)))
            elif isinstance(event, events.RemoteSettingsChanged | events.WindowUpdated):
                self.is_greeted = True
                for number, outgoing in list(self._outgoing.items()):
                    self._pump(number, outgoing)

    def _pump(self, number: int, outgoing: _Outgoing) -> None:
        """Sends as much as the windows allow."""
        if self._has_left:
            return
        queue = outgoing.queue
        while queue:
            data = queue[0]
            size = min(len(data), self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            if size == len(data):
                queue.popleft()
            else:
                queue[0] = data[size:]
            outgoing.queued -= size
            is_end = outgoing.is_ending and not queue
            self._h2.send_data(number, bytes(data[:size]), end_stream=is_end)
            if is_end:
                del self._outgoing[number]
                return
        if outgoing.is_ending:
            self._h2.end_stream(number)
            del self._outgoing[number]


def _going_away(payload: bytes) -> GoingAway:
    last, code = int.from_bytes(payload[:4]) & _STREAM_ID_MAX, int.from_bytes(payload[4:8])
    return GoingAway(last, code, payload[8:].decode(errors="replace"))
