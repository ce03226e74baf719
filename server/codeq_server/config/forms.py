"""Forms of values: each reads a value strictly, describes valid values, and shows a value as operators write it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from codeq_server.config.given import ConfigError, Given

NOT_SUPPORTED: Final = "not supported by this version"

_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,19}")

T = TypeVar("T")


class Form(Generic[T]):
    """Form of a setting's value.

    Attributes:
        expects: Description of valid values, in words that follow "must be".
        values: The same description for the table of settings, in Markdown.
        nothing: How None is shown.
        takes_empty: Whether an empty variable is a value; otherwise it counts as unset.
    """

    expects: str
    values: str
    nothing: str | None = None
    takes_empty: bool = False

    def read(self, given: Given) -> T:
        """Returns the value.

        Raises:
            ConfigError: The given value is malformed.
        """
        is_text = given.is_text and isinstance(given.value, str)
        value = self.parse(self._from_text(str(given.value)) if is_text else given.value)
        if value is None:
            raise self.error(given)
        return value

    def parse(self, value: object) -> T | None:  # noqa: ARG002
        """Returns a value that has a type of its own, as in the file; None: the value is malformed."""
        raise AssertionError(type(self))

    def error(self, given: Given) -> ConfigError:
        """Returns the error for a malformed value."""
        return given.error(f"must be {self.expects}")

    def show(self, value: T) -> object:
        """Returns the value as JSON, as an operator would write it."""
        return value

    def _from_text(self, text: str) -> object:
        """Returns the value that a text stands for, from a source that holds only text."""
        return text


class Whole(Form[int]):
    """A whole number within bounds; `unit` is empty, seconds, milliseconds or bytes."""

    def __init__(self, least: int, most: int, unit: str = "") -> None:
        self._least, self._most, self.unit = least, most, unit
        self.expects = f"a whole number{unit and f' of {unit}'} from {least} to {most}"
        self.values = f"{least} to {most} {unit}".strip()
        if least == most:
            self.expects = self.values = str(least)

    def parse(self, value: object) -> int | None:
        """Returns the number."""
        return value if type(value) is int and self._least <= value <= self._most else None

    def _from_text(self, text: str) -> object:
        return int(text) if _WHOLE.fullmatch(text) else text


class Boolean(Form[bool]):
    """True or false; as text also 1, 0, yes and no."""

    expects = "true or false"
    values = "`true`, `false`"

    def parse(self, value: object) -> bool | None:
        """Returns the boolean."""
        return value if isinstance(value, bool) else None

    def _from_text(self, text: str) -> object:
        return _BOOLEANS.get(text.lower())


class Text(Form[str]):
    """A text of limited length, or one that matches a pattern, which `expects` describes."""

    def __init__(self, least: int = 0, most: int = 1 << 20, pattern: str = "", expects: str = "") -> None:
        self._least, self._most, self._pattern = least, most, re.compile(pattern, re.DOTALL) if pattern else None
        bounds = f" of {least} to {most} characters" if least > 1 else " that is not empty" if least else ""
        self.expects = expects or f"a text{bounds}"
        self.values = self.expects.removeprefix("a ")

    def parse(self, value: object) -> str | None:
        """Returns the text."""
        if not isinstance(value, str) or not self._least <= len(value) <= self._most:
            return None
        return value if self._pattern is None or self._pattern.fullmatch(value) else None


class Choice(Form[Any]):
    """One of several words.

    Args:
        words: The words.
        aliases: Further words, each with the word that it stands for.
        others: Words that only other versions know.
    """

    def __init__(
        self, words: Sequence[str], aliases: Mapping[str, str] | None = None, others: Sequence[str] = ()
    ) -> None:
        self._words = {word: word for word in words} | dict(aliases or {})
        self._others = others
        known = [word or "empty" for word in self._words]
        self.expects = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"
        self.values = ", ".join(f"`{word}`" if word else "empty" for word in self._words)

    def parse(self, value: object) -> str | None:
        """Returns the word, or the one that an alias stands for."""
        return self._words.get(value) if isinstance(value, str) else None

    def error(self, given: Given) -> ConfigError:
        """Returns the error; a word of other versions is named."""
        if given.value in self._others:
            return given.error(f"{given.value} is {NOT_SUPPORTED}; must be {self.expects}")
        return super().error(given)


class FilePath(Form[Path]):
    """A path of the file system."""

    expects = "a valid path"
    values = "path"

    def parse(self, value: object) -> Path | None:
        """Returns the path."""
        if not isinstance(value, str) or not value:
            return None
        try:
            return None if b"\0" in os.fsencode(value) else Path(value)
        except UnicodeEncodeError:
            return None

    def show(self, value: Path) -> object:
        """Returns the path as text."""
        return str(value)


class Texts(Form[frozenset[str]]):
    """An unordered list of texts of one form."""

    def __init__(self, item: Text) -> None:
        self._item = item
        self.expects = f"a list, and each item {item.expects}"
        self.values = "list"

    def parse(self, value: object) -> frozenset[str] | None:
        """Returns the texts."""
        if not isinstance(value, list):
            return None
        found = frozenset(self._item.parse(item) for item in value)
        return None if None in found else frozenset(text for text in found if text is not None)

    def show(self, value: frozenset[str]) -> object:
        """Returns the texts sorted."""
        return sorted(value)


class Listed(Form[tuple[str, ...]]):
    """A list of texts, or one text with commas; duplicates count once.

    Args:
        one: Returns an item in its normal form.
        noun: Noun for the items, in the plural.
        example: An item, with rules that all follow.
        most: Maximum number of items.
    """

    def __init__(self, one: Callable[[str], str | None], noun: str, example: str, most: int) -> None:
        self._one, self._most, self._noun = one, most, noun
        self.expects = f"{noun} such as {example}"
        self.values = f"list or text with commas; up to {most} {noun}"

    def read(self, given: Given) -> tuple[str, ...]:
        """Returns the items; an error names the malformed one."""
        texts = given.value.split(",") if isinstance(given.value, str) else given.value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self.error(given)
        found = []
        for text in filter(None, (text.strip() for text in texts)):
            item = self._one(text)
            if item is None:
                raise given.error(f"must be {self.expects}; got {text[:80]!r}")
            found.append(item)
        items = tuple(dict.fromkeys(found))
        if len(items) > self._most:
            raise given.error(f"has {len(items)} {self._noun}; at most {self._most} are allowed")
        return items

    def show(self, value: tuple[str, ...]) -> object:
        """Returns a list."""
        return list(value)


class AnyMapping(Form[Mapping[str, object]]):
    """A mapping of any contents."""

    expects = "a mapping"
    values = "mapping"

    def parse(self, value: object) -> Mapping[str, object] | None:
        """Returns the mapping."""
        return value if isinstance(value, dict) else None

    def show(self, value: Mapping[str, object]) -> object:
        """Returns a mapping; values that only YAML has, such as dates, are texts."""
        try:
            found: object = json.loads(json.dumps(dict(value), default=str, skipkeys=True))
        except (ValueError, RecursionError):
            return "contains itself, or is nested too deeply"
        return found
