"""The formats of profiles: that of pprof (protobuf, gzip), and that of speedscope (JSON)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from .stacks import Frame, Profile

PPROF: Final = "pprof"
SPEEDSCOPE: Final = "speedscope"
CONTENT_TYPES: Final = {PPROF: "application/octet-stream", SPEEDSCOPE: "application/json"}
"""Content type of each format."""

_SCHEMA: Final = "https://www.speedscope.app/file-format-schema.json"


def encoded(profile: Profile, form: str) -> bytes:
    """Returns a profile in a format, which must be one of CONTENT_TYPES."""
    return _pprof(profile) if form == PPROF else _speedscope(profile)


def _speedscope(profile: Profile) -> bytes:
    frames: dict[Frame, int] = {}
    samples, weights = [], []
    for stack, values in profile.stacks.items():
        samples.append([frames.setdefault(frame, len(frames)) for frame in reversed(stack)])
        weights.append(values[-1])
    measure = profile.measures[-1]
    sampled = {
        "type": "sampled",
        "name": measure.name,
        "unit": measure.unit,
        "startValue": 0,
        "endValue": sum(weights),
        "samples": samples,
        "weights": weights,
    }
    shared = {"frames": [{"name": _name(each), "file": each.file, "line": each.line} for each in frames]}
    return json.dumps({"$schema": _SCHEMA, "shared": shared, "profiles": [sampled], "exporter": "codeq"}).encode()


def _name(frame: Frame) -> str:
    return frame.function or f"{PurePath(frame.file).name}:{frame.line}"


class _Texts:
    """The table of texts, of which the first is empty."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def _pprof(profile: Profile) -> bytes:
    """Returns the message perftools.profiles.Profile; the numbers are those of its fields."""
    texts, locations, functions = _Texts(), dict[Frame, int](), dict[tuple[str, str], int]()
    parts = [
        _message(1, _number(1, texts.number(each.name)) + _number(2, texts.number(each.unit)))
        for each in profile.measures
    ]
    for stack, values in profile.stacks.items():
        ids = [locations.setdefault(frame, len(locations) + 1) for frame in stack]
        parts.append(_message(2, _packed(1, ids) + _packed(2, values)))
    for frame, location in locations.items():
        function = functions.setdefault((_name(frame), frame.file), len(functions) + 1)
        line = _number(1, function) + _number(2, frame.line)
        parts.append(_message(4, _number(1, location) + _message(4, line)))
    for (name, file), function in functions.items():
        named = texts.number(name)
        parts.append(
            _message(5, _number(1, function) + _number(2, named) + _number(3, named) + _number(4, texts.number(file)))
        )
    if profile.period_ns:
        last = profile.measures[-1]
        kind = _number(1, texts.number(last.name)) + _number(2, texts.number(last.unit))
        parts += (_message(11, kind), _number(12, profile.period_ns))
    parts += (_number(9, profile.unix_ns), _number(10, int(profile.seconds * 1e9)))
    parts += [_message(6, text.encode()) for text in texts.numbers]
    return gzip.compress(b"".join(parts), mtime=0)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _packed(field: int, values: Iterable[int]) -> bytes:
    return _message(field, b"".join([_varint(value) for value in values]))
