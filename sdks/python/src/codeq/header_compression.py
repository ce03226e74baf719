"""Header compression of HTTP/2 (RFC 7541), as far as a client needs it: plain literals are sent, everything is read."""

from __future__ import annotations

from collections import deque
from typing import Final

TABLE_BYTES_MAX: Final = 4096
"""Size of the dynamic table that a server may use: the protocol's default."""

_ENTRY_BYTES: Final = 32
_EOS: Final = 256
_PREFIX_BITS_MAX: Final = 7

_STATIC: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
"""Appendix A: the table that both sides know."""

_LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""Appendix B: bits of the code of each byte, and of the end of a string. The code is canonical: they tell all of it."""

Headers = list[tuple[bytes, bytes]]


class MalformedError(Exception):
    """What came is no header block."""


def encode(headers: Headers) -> bytes:
    """A header block of literals, which nobody keeps."""
    block = bytearray()
    for name, value in headers:
        block.append(0x10)  # never indexed: a token stays out of the tables of servers and proxies
        for text in (name, value):
            block += _integer(len(text), 7)
            block += text
    return bytes(block)


class Decoder:
    """Reads the header blocks of one connection, in order."""

    def __init__(self, block_bytes_max: int) -> None:
        """A decoder.

        Args:
            block_bytes_max: Most bytes of the names and values of a block.
        """
        self._block_bytes_max = block_bytes_max
        self._table: deque[tuple[bytes, bytes]] = deque()  # the newest first
        self._size = 0
        self._size_max = TABLE_BYTES_MAX

    def decode(self, block: bytes) -> Headers:
        """The headers of a block.

        Raises:
            MalformedError: It is none, or has more than it may.
        """
        headers: Headers = []
        total = at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _read_integer(block, at, 7)
                header = self._entry(index)
            elif first & 0xE0 == 0x20:
                size, at = _read_integer(block, at, 5)
                self._resize(size)
                continue
            else:
                is_kept = bool(first & 0x40)
                header, at = self._literal(block, at, 6 if is_kept else 4)
                if is_kept:
                    self._add(header)
            headers.append(header)
            total += len(header[0]) + len(header[1])
            if total > self._block_bytes_max:
                raise MalformedError("the headers are too large")
        return headers

    def _literal(self, block: bytes, at: int, bits: int) -> tuple[tuple[bytes, bytes], int]:
        index, at = _read_integer(block, at, bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _read_string(block, at)
        value, at = _read_string(block, at)
        return (name, value), at

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 1 <= index <= len(_STATIC):
            return _STATIC[index - 1]
        if 0 < index - len(_STATIC) <= len(self._table):
            return self._table[index - len(_STATIC) - 1]
        raise MalformedError(f"no header has the index {index}")

    def _add(self, header: tuple[bytes, bytes]) -> None:
        self._table.appendleft(header)
        self._size += _ENTRY_BYTES + len(header[0]) + len(header[1])
        self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES_MAX:
            raise MalformedError("the table is too large")
        self._size_max = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._size_max:
            name, value = self._table.pop()
            self._size -= _ENTRY_BYTES + len(name) + len(value)


def _integer(value: int, bits: int) -> bytes:
    """An integer with a prefix of so many bits, the others 0."""
    full = (1 << bits) - 1
    if value < full:
        return bytes((value,))
    out = bytearray((full,))
    value -= full
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    full = (1 << bits) - 1
    value = block[at] & full
    at += 1
    if value < full:
        return value, at
    for shift in range(0, 28, 7):
        if at >= len(block):
            break
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise MalformedError("an integer that does not end")


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    if at >= len(block):
        raise MalformedError("a string is missing")
    is_coded = bool(block[at] & 0x80)
    size, at = _read_integer(block, at, 7)
    end = at + size
    if end > len(block):
        raise MalformedError("a string is cut off")
    text = block[at:end]
    return (_huffman(text) if is_coded else text), end


def _codes() -> dict[tuple[int, int], int]:
    """The byte of each code, by its bits and their number."""
    codes = {}
    code = bits = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
        code <<= length - bits
        bits = length
        codes[bits, code] = symbol
        code += 1
    return codes


_CODES: Final = _codes()


def _huffman(text: bytes) -> bytes:
    out = bytearray()
    code = bits = 0
    for byte in text:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            bits += 1
            if (symbol := _CODES.get((bits, code))) is not None:
                if symbol == _EOS:
                    raise MalformedError("an end within a string")
                out.append(symbol)
                code = bits = 0
    if bits > _PREFIX_BITS_MAX or code != (1 << bits) - 1:  # padded with the first bits of the end's code
        raise MalformedError("a string with wrong padding")
    return bytes(out)
