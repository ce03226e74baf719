"""Translates field names in errors: services use the protobuf names, REST clients expect the JSON names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.protobuf.descriptor import Descriptor

_WORD: Final = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
_PART: Final = re.compile(r"(?P<path>[a-z0-9_.\[\]]+): (?P<what>.*)", re.DOTALL)


class JsonNames:
    """JSON names of the fields of a request message.

    Args:
        request: The message.
        body_field: Field that the body fills; empty: the request itself.
    """

    def __init__(self, request: Descriptor, body_field: str) -> None:
        self._request = request
        self._body_field = body_field
        self._words = words_of([request])

    def path(self, path: str) -> str:
        """Returns the JSON path of a field from an error's path; other names, such as headers, are unchanged."""
        first, _, rest = path.partition(".")
        if self._body_field and first == self._body_field:
            return _path(self._request.fields_by_name[first].message_type, rest)
        return _path(self._request, path)

    def words(self, text: str) -> str:
        """Returns a description with the fields it mentions renamed to JSON."""
        return in_json(text, self._words)

    def text(self, message: str) -> str:
        """Returns an item's error message, "path: description" for each field, with JSON names."""
        return "; ".join(map(self._part, message.split("; ")))

    def _part(self, text: str) -> str:
        found = _PART.fullmatch(text)
        if found is None:
            return self.words(text)
        parts = (part.partition("[") for part in found["path"].split("."))
        path = ".".join(self._words.get(name, name) + bracket + index for name, bracket, index in parts)
        return f"{path}: {self.words(found['what'])}"


def words_of(messages: Iterable[Descriptor]) -> dict[str, str]:
    """Returns the JSON names of the fields of these messages and of messages nested in them, by protobuf name."""
    seen: dict[str, Descriptor] = {}
    found = [within for message in messages for within in _reachable(message, seen)]
    return {field.name: field.json_name for message in found for field in message.fields}


def in_json(text: str, words: Mapping[str, str]) -> str:
    """Returns a text with the fields it mentions renamed to JSON."""
    return _WORD.sub(lambda found: words.get(found[0], found[0]), text)


def _path(descriptor: Descriptor | None, path: str) -> str:
    shown = []
    for part in path.split("."):
        name, bracket, index = part.partition("[")
        found = descriptor.fields_by_name.get(name) if descriptor else None
        shown.append((found.json_name if found else name) + bracket + index)
        descriptor = found.message_type if found else None
    return ".".join(shown)


def _reachable(message: Descriptor, seen: dict[str, Descriptor]) -> Iterator[Descriptor]:
    """Yields a message and the messages nested in it, each once."""
    if message.full_name not in seen:
        seen[message.full_name] = message
        yield message
        for field in message.fields:
            if field.message_type is not None:
                yield from _reachable(field.message_type, seen)
