"""Connections to receivers, which read a limited number of bytes of an answer, whatever its form.

A receiver may send bytes that belong to no body without end: interim answers, extensions of chunks, zeros before the
size of a chunk. The event loop, which all tenants share, must not read them for as long as the request may take.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage

READ_BYTES_MAX: Final = 1 << 20
"""Bytes of an answer that are read, with its head and its framing; then the request runs into its timeout."""
INTERIM_MAX: Final = 8
"""Interim answers, such as 100 and 103, before an answer."""


class _Connection(ResponseHandler):
    """A connection whose peer is not trusted."""

    _left = READ_BYTES_MAX
    _interim = 0

    def set_response_params(self, **params: Any) -> None:
        """Prepares the connection for a request."""
        self._left, self._interim = READ_BYTES_MAX, 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Reads bytes of the answer; those beyond the limit are dropped."""
        if len(data) <= self._left:
            self._left -= len(data)
            super().data_received(data)
            return
        if self._left:
            data, self._left = data[: self._left], 0
            super().data_received(data)
        self.force_close()
        if self.transport is not None:
            self.transport.pause_reading()

    def feed_data(self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0) -> None:
        """Takes the head of an answer."""
        if data[0].code < HTTPStatus.OK and data[0].code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._interim += 1
            if self._interim == INTERIM_MAX + 1:
                self.set_exception(HttpProcessingError(message="too many interim answers"))
                if self.transport is not None:
                    self.transport.close()
        if self._interim <= INTERIM_MAX:
            super().feed_data(data, size)


class Connector(aiohttp.TCPConnector):
    """Makes such connections; the arguments are those of its base."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, loop=self._loop))
