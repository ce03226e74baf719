"""The client's side of one HTTP/2 connection (RFC 9113): frames, header blocks, flow control. Pure; no I/O.

Only what calls need: no pushes, no priorities.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from codeq import header_compression
from codeq.header_compression import Headers, MalformedError

FRAME_BYTES_MAX: Final = 1 << 20
"""Largest frame taken from a server."""

WINDOW_BYTES: Final = 8 << 20
"""Bytes that a server may send on a stream, and on the connection, beyond those that were consumed."""

HEADER_BYTES_MAX: Final = 64 * 1024
"""Most bytes of one header block, compressed and not."""

CANCEL: Final = 8
"""Error code with which a client gives up a stream."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES: Final = 9
_WINDOW_FIRST: Final = 65_535
_WINDOW_MAX: Final = 2**31 - 1
_FRAME_BYTES_FIRST: Final = 16_384
_STREAM_ID_MAX: Final = 2**31 - 1

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME, _MAX_HEADERS = 2, 3, 4, 5, 6


class ProtocolError(Exception):
    """The server does not keep to HTTP/2: the connection is of no more use."""


class HeadersReceived(NamedTuple):
    """A header block of a stream, its trailers too."""

    stream: int
    headers: Headers
    is_end: bool


class DataReceived(NamedTuple):
    """Data of a stream; `size` is what it takes of the windows, padding included."""

    stream: int
    data: bytes
    size: int
    is_end: bool


class StreamReset(NamedTuple):
    """The server gave up a stream."""

    stream: int
    code: int


class GoingAway(NamedTuple):
    """The server takes no further streams, and has not looked at those above the last one."""

    last_stream: int
    code: int
    text: str


Event = HeadersReceived | DataReceived | StreamReset | GoingAway


class _Stream:
    """What is sent on a stream. It is known until its sending side has ended or it was given up."""

    __slots__ = ("is_ending", "queue", "queued", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.is_ending = False


class Http2:
    """The state of one connection.

    Attributes:
        streams_max: Streams that the server lets be open at a time.
        is_greeted: Whether the server has told its settings.
    """

    def __init__(self) -> None:
        """A new connection; its first bytes wait in `take`."""
        self.streams_max = _STREAM_ID_MAX
        self._decoder = header_compression.Decoder(HEADER_BYTES_MAX)
        self._input = bytearray()
        self._output: list[bytes | memoryview] = []
        self._streams: dict[int, _Stream] = {}
        self._next_stream = 1
        self._window = self._window_of_streams = _WINDOW_FIRST
        self._frame_bytes_max = _FRAME_BYTES_FIRST
        self._consumed = 0
        self._consumed_of: dict[int, int] = {}  # the streams that are known, until they are forgotten
        self._untaken: dict[int, int] = {}
        self._block: tuple[int, bool, bytearray] | None = None  # a header block that goes on in the next frame
        self.is_greeted = False
        settings = {_ENABLE_PUSH: 0, _INITIAL_WINDOW: WINDOW_BYTES, _MAX_FRAME: FRAME_BYTES_MAX}
        settings[_MAX_HEADERS] = HEADER_BYTES_MAX
        self._output.append(_PREFACE)
        self._send(_SETTINGS, 0, 0, b"".join(_pair(name, value) for name, value in settings.items()))
        self._send(_WINDOW_UPDATE, 0, 0, (WINDOW_BYTES - _WINDOW_FIRST).to_bytes(4))

    @property
    def is_used_up(self) -> bool:
        """Whether there are no numbers left for further streams."""
        return self._next_stream > _STREAM_ID_MAX

    def take(self) -> bytes:
        """The bytes that are to be sent now."""
        output, self._output = self._output, []
        return b"".join(output)

    def open(self, headers: Headers) -> int:
        """Begin a stream with its headers; returns its number."""
        number = self._next_stream
        self._next_stream += 2
        self._streams[number] = _Stream(self._window_of_streams)
        self._consumed_of[number] = self._untaken[number] = 0
        block = header_compression.encode(headers)
        first, rest = block[: self._frame_bytes_max], block[self._frame_bytes_max :]
        self._send(_HEADERS, 0 if rest else _END_HEADERS, number, first)
        while rest:
            first, rest = rest[: self._frame_bytes_max], rest[self._frame_bytes_max :]
            self._send(_CONTINUATION, 0 if rest else _END_HEADERS, number, first)
        return number

    def send(self, number: int, data: bytes, *, is_end: bool) -> None:
        """Send data on a stream as far as the windows allow, and the rest when they do; and end its sending side."""
        if (stream := self._streams.get(number)) is None:
            return
        if data:
            stream.queue.append(memoryview(data))
            stream.queued += len(data)
        stream.is_ending = is_end
        self._pump(number, stream)

    def queued(self, number: int) -> int:
        """Bytes of a stream that wait for the windows."""
        stream = self._streams.get(number)
        return 0 if stream is None else stream.queued

    def reset(self, number: int, code: int = CANCEL) -> None:
        """Give up a stream."""
        self.forget(number)
        self._send(_RST_STREAM, 0, number, code.to_bytes(4))

    def forget(self, number: int) -> bool:
        """Drop what is known of a stream that is over; tells whether its sending side was still open."""
        self._consumed_of.pop(number, None)
        self._give_back(self._untaken.pop(number, 0))
        return self._streams.pop(number, None) is not None

    def consumed(self, number: int, size: int) -> None:
        """Give window back for data that was taken; told to the server when it is worth a frame."""
        if number not in self._consumed_of:
            return  # given up meanwhile: `forget` has given it back
        self._give_back(size)
        self._untaken[number] -= size
        total = self._consumed_of[number] + size
        if total >= WINDOW_BYTES // 2:
            self._send(_WINDOW_UPDATE, 0, number, total.to_bytes(4))
            total = 0
        self._consumed_of[number] = total

    def _give_back(self, size: int) -> None:
        self._consumed += size
        if self._consumed >= WINDOW_BYTES // 2:
            self._send(_WINDOW_UPDATE, 0, 0, self._consumed.to_bytes(4))
            self._consumed = 0

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._send(_PING, 0, 0, bytes(8))

    def leave(self) -> None:
        """Tell the server that the connection ends."""
        self._send(_GOAWAY, 0, 0, bytes(8))

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the server; returns what they say about the streams.

        Raises:
            ProtocolError: They are no HTTP/2.
        """
        buffer = self._input
        buffer += data
        events: list[Event] = []
        at, end = 0, len(buffer)
        while end - at >= _HEAD_BYTES:
            size, kind, flags = int.from_bytes(buffer[at : at + 3]), buffer[at + 3], buffer[at + 4]
            if not self.is_greeted:
                _check_greeting(buffer, kind)
            if size > FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {size} bytes")
            begin = at + _HEAD_BYTES
            if end - begin < size:
                break
            number = int.from_bytes(buffer[at + 5 : begin]) & _STREAM_ID_MAX
            at = begin + size
            try:
                self._take(kind, flags, number, bytes(buffer[begin:at]), events)
            except (MalformedError, IndexError) as error:
                raise ProtocolError(f"a malformed frame: {error}") from error
        del buffer[:at]
        return events

    def _take(self, kind: int, flags: int, number: int, payload: bytes, events: list[Event]) -> None:
        if self._block is not None and (kind != _CONTINUATION or number != self._block[0]):
            raise ProtocolError("a header block is interrupted")
        if kind == _DATA and number not in self._consumed_of:
            self._give_back(len(payload))  # of a stream that was given up: it has its share of the connection's window
        elif kind == _DATA:
            self._untaken[number] += len(payload)
            data = _unpadded(payload) if flags & _PADDED else payload
            events.append(DataReceived(number, data, len(payload), bool(flags & _END_STREAM)))
        elif kind == _HEADERS:
            block = _unpadded(payload) if flags & _PADDED else payload
            block = block[5:] if flags & _PRIORITY else block
            self._take_block(number, bool(flags & _END_STREAM), bytearray(block), flags, events)
        elif kind == _CONTINUATION:
            if self._block is None:
                raise ProtocolError("a header block goes on that never began")
            _, is_end, begun = self._block
            self._take_block(number, is_end, begun + payload, flags, events)
        elif kind == _RST_STREAM:
            events.append(StreamReset(number, int.from_bytes(payload)))
        else:
            self._take_control(kind, flags, number, payload, events)

    def _take_control(self, kind: int, flags: int, number: int, payload: bytes, events: list[Event]) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._send(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            text = payload[8:].decode(errors="replace")
            events.append(GoingAway(int.from_bytes(payload[:4]) & _STREAM_ID_MAX, int.from_bytes(payload[4:8]), text))
        elif kind == _WINDOW_UPDATE:
            self._take_window(number, int.from_bytes(payload) & _WINDOW_MAX)
        elif kind == _PUSH:
            raise ProtocolError("a push that was not allowed")

    def _take_block(self, number: int, is_end: bool, block: bytearray, flags: int, events: list[Event]) -> None:  # noqa: FBT001 - a flag of the frame
        if len(block) > HEADER_BYTES_MAX:
            raise ProtocolError(f"a header block of more than {HEADER_BYTES_MAX} bytes")
        if not flags & _END_HEADERS:
            self._block = (number, is_end, block)
            return
        self._block = None
        events.append(HeadersReceived(number, self._decoder.decode(bytes(block)), is_end))

    def _take_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if name == _MAX_STREAMS:
                self.streams_max = value
            elif name == _INITIAL_WINDOW:
                for stream in self._streams.values():
                    stream.window += value - self._window_of_streams
                self._window_of_streams = value
            elif name == _MAX_FRAME:
                self._frame_bytes_max = max(_FRAME_BYTES_FIRST, value)
        self.is_greeted = True
        self._send(_SETTINGS, _ACK, 0, b"")
        self._pump_all()

    def _take_window(self, number: int, size: int) -> None:
        if number:
            if (stream := self._streams.get(number)) is not None:
                stream.window += size
                self._pump(number, stream)
            return
        self._window += size
        self._pump_all()

    def _pump_all(self) -> None:
        for number, stream in list(self._streams.items()):
            if stream.queued:
                self._pump(number, stream)

    def _pump(self, number: int, stream: _Stream) -> None:
        """Send what the windows allow."""
        queue = stream.queue
        while queue:
            data = queue[0]
            size = min(len(data), self._window, stream.window, self._frame_bytes_max)
            if size <= 0:
                return
            if size == len(data):
                queue.popleft()
            else:
                queue[0] = data[size:]
            self._window -= size
            stream.window -= size
            stream.queued -= size
            is_end = stream.is_ending and not queue
            self._send(_DATA, _END_STREAM if is_end else 0, number, data[:size])
            if is_end:
                del self._streams[number]
                return
        if stream.is_ending:
            self._send(_DATA, _END_STREAM, number, b"")
            del self._streams[number]

    def _send(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        self._output.append(len(payload).to_bytes(3) + bytes((kind, flags)) + number.to_bytes(4))
        if payload:
            self._output.append(payload)


def _check_greeting(buffer: bytearray, kind: int) -> None:
    """Check that the first frame is that of an HTTP/2 server."""
    if buffer.startswith(b"HTTP/"):
        raise ProtocolError("the server speaks HTTP/1.1: is this the address of its gRPC?")
    if kind != _SETTINGS:
        raise ProtocolError("the server does not speak HTTP/2")


def _pair(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


def _unpadded(payload: bytes) -> bytes:
    size = payload[0]
    if size >= len(payload):
        raise ProtocolError("more padding than frame")
    return payload[1 : len(payload) - size]
