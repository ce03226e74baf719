"""Artifacts: files that belong to a result."""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence
from dataclasses import dataclass
from typing import Any, Final, Self

from codeq.errors import FieldViolation, InvalidField, TooLarge
from codeq.v1 import task_pb2, task_service_pb2

CONTENT_BYTES_MAX: Final = 6 * 1024 * 1024
"""Maximum bytes of content in all artifacts of one result; a server may allow less per artifact."""


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """A file to add to a result: either content for the server to store, or a URL.

    Attributes:
        name: Name, unique within the result; at most 128 characters, no slash.
        content: Content; None: the content is at the URL.
        url: Where the content is, if the server does not store it.
        content_type: Media type such as "image/png"; empty: unknown.
    """

    name: str
    content: bytes | None = None
    url: str = ""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a result.

    Attributes:
        name: Name.
        url: Where the content is; None: the server stores it.
        size: Bytes of the content, if the server stores it.
        content_type: Media type, if the worker gave one.
        sha256: SHA-256 of the content in hexadecimal, if the server stores it.
    """

    name: str
    url: str | None
    size: int | None
    content_type: str | None
    sha256: str | None

    @classmethod
    def from_message(cls, message: task_pb2.Artifact) -> Self:
        """Returns the artifact of a task's record."""
        names = ("url", "size", "content_type", "sha256")
        told: dict[str, Any] = {name: getattr(message, name) if message.HasField(name) else None for name in names}
        return cls(name=message.name, **told)


@dataclass(frozen=True, slots=True)
class ArtifactContent:
    """A file of a result with its content.

    Attributes:
        name: Name.
        content: Content.
        content_type: Media type.
        sha256: SHA-256 of the content in hexadecimal.
    """

    name: str
    content: bytes
    content_type: str
    sha256: str

    @classmethod
    def from_message(cls, message: task_service_pb2.GetTaskArtifactResponse) -> Self:
        """Returns the file in a reply."""
        return cls(message.name, message.content, message.content_type, message.sha256)


def fill(messages: MutableSequence[task_pb2.NewArtifact], artifacts: Iterable[NewArtifact]) -> None:
    """Writes artifacts into a request; checks only the total size, the server checks the rest.

    Raises:
        InvalidField: A field has a value of the wrong type.
        TooLarge: The contents exceed CONTENT_BYTES_MAX.
    """
    size = 0
    for index, each in enumerate(artifacts):
        try:
            message = task_pb2.NewArtifact(name=each.name, url=each.url, content_type=each.content_type)
            if each.content is not None:
                message.content = each.content
        except (TypeError, ValueError, AttributeError) as error:
            field = f"artifacts[{index}]"
            raise InvalidField(f"{field}: {error}", violations=[FieldViolation(field, str(error))]) from None
        size += len(message.content)
        if size > CONTENT_BYTES_MAX:
            text = f"artifacts have more than {CONTENT_BYTES_MAX} bytes"
            raise TooLarge(text, violations=[FieldViolation("artifacts", text)])
        messages.append(message)
