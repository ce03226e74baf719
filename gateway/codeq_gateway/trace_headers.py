"""Trace context of a task, taken from the headers of the request that creates it (W3C Trace Context)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

TRACEPARENT: Final = "traceparent"
"""Name of the header, and of the field that it fills."""
TRACESTATE: Final = "tracestate"
"""Name of the header with the vendor part, and of the field that it fills."""

TRACEPARENT_BYTES_MAX: Final = 128
TRACESTATE_BYTES_MAX: Final = 512
"""Longer headers are ignored."""

_IDS: Final = rb"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_is_parent: Final = re.compile(rb"00-%b|(?!00|ff)[0-9a-f]{2}-%b(-[!-~]*)?" % (_IDS, _IDS)).fullmatch
_is_state: Final = re.compile(rb"[ -~]+").fullmatch


def of_message(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Returns the fields of a message that hold trace context: both, or none."""
    found = tuple(each for each in descriptor.fields if each.name in {TRACEPARENT, TRACESTATE})
    return found if len(found) == 2 else ()


def fill(message: Message, headers: Mapping[bytes, bytes]) -> None:
    """Sets the trace context of a message from the headers, unless the body has one.

    Clients send these headers with every request, often by themselves: a malformed one is ignored, and so is the state
    without a valid parent.

    Args:
        message: The body's message, which has both fields.
        headers: Headers of the request.
    """
    parent = headers.get(TRACEPARENT.encode())
    if parent is None or message.HasField(TRACEPARENT) or message.HasField(TRACESTATE):
        return
    if len(parent) > TRACEPARENT_BYTES_MAX or not _is_parent(parent):
        return
    setattr(message, TRACEPARENT, parent.decode("ascii"))
    state = headers.get(TRACESTATE.encode(), b"")
    if len(state) <= TRACESTATE_BYTES_MAX and _is_state(state):
        setattr(message, TRACESTATE, state.decode("ascii"))
