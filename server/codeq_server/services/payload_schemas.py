"""Payload schemas of policies (JSON Schema 2020-12): what they may contain, and whether a payload fits one.

A payload is checked between other callers' work, so the time of a check is bounded: references stay within the schema
and form no loop, patterns run on an engine that takes linear time, and a check has a limit of steps: the number of
subschemas, with references expanded, times that of values, and that of patterns times the bytes of the payload. What
compares values counts as several subschemas, and numbers that take long to compare are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import jsonschema_rs
import msgspec
from codeq_gateway.surrogates import mark_unpaired

from codeq_server.core.policy import STEPS_PER_TURN

SUBSCHEMAS_MAX: Final = 1_000
"""Maximum subschemas of a schema, each counted as often as references lead to it."""
DEPTH_MAX: Final = 64
"""Maximum depth of nested subschemas, with references expanded."""
STEPS_MAX: Final = STEPS_PER_TURN
"""Maximum steps of a check; how long that takes is said in `docs/policies.md`."""
PATTERN_BYTES_MAX: Final = 1 << 15
"""Maximum size of a compiled pattern."""
DFA_BYTES_MAX: Final = 1 << 20
"""Maximum memory of a pattern's cache."""
COMPILED_MAX: Final = 256
"""Schemas that are kept compiled; the one used least recently is compiled again."""
PATTERN_STEPS: Final = 8
"""Steps of a pattern for a byte of the payload."""
UNIQUE_STEPS: Final = 20
"""Steps of `uniqueItems`, which compares items."""
NUMBER_STEPS: Final = 20
"""Steps of `multipleOf`, and of a comparison with a fraction in `const` or `enum`."""
LOOKUPS_PER_STEP: Final = 32
"""Members of `dependentRequired` for a step, and items of an `enum` without fractions, lists and objects."""
NUMBER_MAX: Final = 1e80
"""Greatest absolute value of a number in a payload."""
NUMBER_MIN: Final = 1e-30
"""Least absolute value of a number in a payload, except 0."""
MESSAGE_CHARACTERS_MAX: Final = 300

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ONE: Final = frozenset(
    ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
)
"""Keywords with a subschema."""
_LISTS: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
"""Keywords with a list of subschemas."""
_MAPS: Final = frozenset(("dependencies", "dependentSchemas", "patternProperties", "properties"))
"""Keywords with named subschemas."""
_REFUSED: Final = frozenset(
    ("$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties")
)
"""Names that must not occur anywhere: they move what references lead to, or make validators go over values again."""


class InvalidSchema(Exception):  # noqa: N818 - what is wrong
    """A schema cannot be used; the text follows the field's name."""


class _Compiled(NamedTuple):
    """A schema ready for use.

    Attributes:
        validator: Checks payloads.
        size: Its subschemas, with references expanded.
        comparisons: Further steps of a value, likewise, for comparisons.
        patterns: Its patterns, likewise.
    """

    validator: jsonschema_rs.Draft202012Validator
    size: int
    comparisons: int
    patterns: int


@lru_cache(COMPILED_MAX)
def compiled(schema: bytes) -> _Compiled:
    """Returns a schema ready for use.

    Raises:
        InvalidSchema: It cannot be used.
    """
    try:
        content = msgspec.json.decode(schema)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidSchema(f"must be a JSON object: {error}") from None
    if not isinstance(content, dict):
        raise InvalidSchema("must be a JSON object")
    if content.get("$schema", _DIALECT) not in (_DIALECT, f"{_DIALECT}#"):
        raise InvalidSchema(f"must be in the dialect {_DIALECT}")
    _check_keywords(content)
    size, comparisons, patterns = [_Sum(content, own).of(content, 0) for own in (_size, _comparisons, _patterns)]
    if size > SUBSCHEMAS_MAX:
        raise InvalidSchema(f"has {size} subschemas with its references expanded, more than {SUBSCHEMAS_MAX}")
    options = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES_MAX, dfa_size_limit=DFA_BYTES_MAX)
    try:
        validator = jsonschema_rs.Draft202012Validator(
            content, pattern_options=options, validate_formats=False, offline=True, mask="the value"
        )
    except jsonschema_rs.ValidationError as error:
        raise InvalidSchema(f"is no valid schema: {_fault(error)}") from None
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise InvalidSchema(f"is no valid schema: {_first_line(error)}") from None
    return _Compiled(validator, size, comparisons, patterns)


class Checker:
    """Checks the payloads of a shard.

    Attributes:
        steps: Steps of all checks so far.
    """

    def __init__(self) -> None:
        self.steps = 0

    def misfit(self, schema: bytes, payload: bytes) -> str:
        """Returns why a payload does not fit an accepted schema, in words that follow the field's name; empty: it fits.

        Args:
            schema: The schema.
            payload: Valid JSON.
        """
        try:
            ready = compiled(schema)
        except InvalidSchema as invalid:  # accepted by an earlier version
            return f"cannot be checked with the queue's payloadSchema, which {invalid}"
        values = payload.count(b",") + payload.count(b"[") + payload.count(b"{") + 1
        steps = values * (ready.size + ready.comparisons) + len(payload) * ready.patterns * PATTERN_STEPS
        if steps > STEPS_MAX:
            large = f"about {values} values, {len(payload)} bytes"
            return f"is too large to be checked with the queue's payloadSchema: {large}"
        self.steps += steps
        try:
            content = _decoded(payload)
            _check_numbers(content)
            ready.validator.validate(content)
        except jsonschema_rs.ValidationError as misfit:
            text = misfit.message[:MESSAGE_CHARACTERS_MAX]
            return f"does not fit the queue's payloadSchema: {_pointer(misfit) or 'the whole payload'}: {text}"
        except (ValueError, RecursionError) as problem:  # another name for each: compiled, a name has one type
            return f"cannot be checked with the queue's payloadSchema: {_first_line(problem)}"
        return ""


def _decoded(payload: bytes) -> Any:
    """Returns the content of a payload.

    Raises:
        ValueError: It has a number that is out of range.
    """
    try:
        try:
            return msgspec.json.decode(payload)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.json.decode(mark_unpaired(payload)[0])
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def _check_numbers(content: object) -> None:
    """Checks that comparisons with the numbers of a payload take a short time.

    Raises:
        ValueError: They do not.
    """
    for found in _values_in(content):
        if isinstance(found, (int, float)) and found and not NUMBER_MIN <= abs(found) <= NUMBER_MAX:
            raise ValueError(f"a number is out of range: {NUMBER_MIN:g} to {NUMBER_MAX:g}, without its sign, or 0")


def _check_keywords(schema: object) -> None:
    """Checks that a schema has none of the refused names, not even as data.

    Raises:
        InvalidSchema: It has one.
    """
    for found in _values_in(schema):
        if isinstance(found, dict) and (refused := _REFUSED.intersection(found)):
            raise InvalidSchema(f"must not use {min(refused)}")


def _values_in(content: object) -> Iterator[object]:
    """Yields a JSON value, and all that it contains."""
    left = [content]
    while left:
        found = left.pop()
        yield found
        if isinstance(found, dict):
            left += found.values()
        elif isinstance(found, list):
            left += found


def _size(schema: dict[str, Any]) -> int:
    return UNIQUE_STEPS if schema.get("uniqueItems") is True else 1


def _comparisons(schema: dict[str, Any]) -> int:
    choices = [schema["const"]] if "const" in schema else []
    named, dependent = schema.get("enum"), schema.get("dependentRequired")
    choices += named if isinstance(named, list) else []
    steps = NUMBER_STEPS if "multipleOf" in schema else 0
    steps += len(dependent) // LOOKUPS_PER_STEP if isinstance(dependent, dict) else 0
    if all(_is_plain(each) for each in choices):
        return steps + len(choices) // LOOKUPS_PER_STEP
    return steps + sum([NUMBER_STEPS if isinstance(each, float) else 1 for each in _values_in(choices)])


def _is_plain(value: object) -> bool:
    """Returns whether an `enum` finds a value without comparing each item, or with fast comparisons."""
    return value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) < 1 << 63)


def _patterns(schema: dict[str, Any]) -> int:
    named = schema.get("patternProperties")
    return ("pattern" in schema) + (len(named) if isinstance(named, dict) else 0)


class _Sum:
    """Adds something up over the subschemas of a schema, with references expanded.

    Args:
        root: The schema.
        own: Returns the share of a subschema without those in it.
    """

    def __init__(self, root: dict[str, Any], own: Callable[[dict[str, Any]], int]) -> None:
        self._root = root
        self._own = own
        self._known: dict[str, int] = {}
        self._open: set[str] = set()
        """References that are being followed."""

    def of(self, schema: object, depth: int) -> int:
        """Returns the sum over a subschema, itself included.

        Raises:
            InvalidSchema: It has a reference that is not allowed, or is nested too deeply.
        """
        if depth > DEPTH_MAX:
            raise InvalidSchema(f"has subschemas nested deeper than {DEPTH_MAX}")
        if not isinstance(schema, dict):
            return self._own({})
        count = self._own(schema)
        for each in _subschemas(schema):
            count += self.of(each, depth + 1)
        return count + self._referred(schema["$ref"], depth) if "$ref" in schema else count

    def _referred(self, reference: object, depth: int) -> int:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")) or "%" in reference:
            raise InvalidSchema("must have only references like #/$defs/name")
        if reference in self._open or reference == "#":
            raise InvalidSchema(f"must not refer to itself: {reference[:MESSAGE_CHARACTERS_MAX]}")
        if reference not in self._known:
            self._open.add(reference)
            self._known[reference] = self.of(self._target(reference), depth + 1)
            self._open.remove(reference)
        return self._known[reference]

    def _target(self, reference: str) -> object:
        found: object = self._root
        for part in reference[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise InvalidSchema(f"refers to {reference[:MESSAGE_CHARACTERS_MAX]}, which it does not have")
        return found


def _subschemas(schema: dict[str, Any]) -> Iterator[object]:
    """Yields the subschemas of one, except those that it refers to."""
    for keyword, value in schema.items():
        if keyword in _ONE:
            yield value
        elif keyword in _LISTS and isinstance(value, list):
            yield from value
        elif keyword in _MAPS and isinstance(value, dict):
            yield from value.values()


def _fault(error: jsonschema_rs.ValidationError) -> str:
    """Returns where a schema is wrong, and how."""
    keyword = str(error.instance_path[-1]) if error.instance_path else ""
    if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Format):
        text = "must be a regular expression without look-around and backreferences, and not too large"
    elif keyword == "type":
        text = "must be the name of a JSON type, such as object, or a list of them"
    else:
        text = error.message
    return f"{_pointer(error)[:MESSAGE_CHARACTERS_MAX]}: {text[:MESSAGE_CHARACTERS_MAX]}"


def _pointer(error: jsonschema_rs.ValidationError) -> str:
    """Returns the JSON pointer of the value at fault; empty: the whole one."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.instance_path)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:MESSAGE_CHARACTERS_MAX]
