"""Values of the program's own types as JSON: dataclasses, pydantic models and msgspec structs, alone or in containers.

pydantic and msgspec are recognised by the shape of their classes, and imported only where a program uses them.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

from codeq.errors import FieldViolation, InvalidField
from codeq.texts import text_of

_Value = TypeVar("_Value")

_Convert = Callable[[Any, str], Any]
"""Turns decoded JSON into a value; the text is its path, for errors."""

_MSGSPEC_PATH: Final = re.compile(r" - at `\$?([^`]*)`$")


class MismatchError(ValueError):
    """JSON that does not fit a type.

    Attributes:
        path: Where, such as "payload.items[2].price".
        problem: What is wrong.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class Reader(Generic[_Value]):
    """Reads JSON as values of one type."""

    def __init__(self, kind: type[_Value]) -> None:
        """Prepares for a type.

        Raises:
            TypeError: Values of the type cannot be read from JSON.
        """
        self._kind = kind
        self._convert = _converter(kind, {}) if not (_is_model(kind) or _is_struct(kind)) else None

    def read(self, data: bytes, name: str) -> _Value:
        """Returns the value.

        Args:
            data: JSON; empty: the JSON value null.
            name: Name of the field, the beginning of paths in errors.

        Raises:
            InvalidField: The JSON does not fit the type; `violations` names the first place where it does not.
        """
        try:
            value = self._read(data or b"null", name)
        except MismatchError as error:
            raise InvalidField(str(error), violations=[FieldViolation(error.path, error.problem)]) from None
        return cast("_Value", value)

    def _read(self, data: bytes, name: str) -> object:
        if _is_model(self._kind):
            return _checked_model(lambda: self._kind.model_validate_json(data), name)  # type: ignore[attr-defined]
        if _is_struct(self._kind):
            import msgspec  # noqa: PLC0415 - only programs that use it have it

            return _checked_struct(lambda: msgspec.json.decode(data, type=self._kind), name)
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise MismatchError(name, text_of(error)) from None
        assert self._convert is not None
        return self._convert(plain, name)


def plain(value: object) -> object:
    """Returns what `json` can encode instead of a value that it cannot.

    Raises:
        TypeError: The value is none of a dataclass, a pydantic model or a msgspec struct.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not _is_model(type(value)):
        return {field.name: _shown(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if _is_model(type(value)):
        return value.model_dump(mode="json", by_alias=True)  # type: ignore[attr-defined]
    if _is_struct(type(value)):
        import msgspec  # noqa: PLC0415 - see above

        return msgspec.to_builtins(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def payload_type(handler: object, of: type) -> Any:
    """Returns X if a handler's argument is annotated with Task[X]; None: with nothing, or with a plain Task.

    Args:
        handler: The handler.
        of: The class Task.

    Raises:
        TypeError: The annotation names a type that cannot be found.
    """
    function = handler if inspect.isroutine(handler) else getattr(type(handler), "__call__", None)  # noqa: B004
    try:
        parameters = list(inspect.signature(cast("Callable[..., object]", handler)).parameters.values())
    except (TypeError, ValueError):
        return None
    if not parameters:
        return None
    annotation = parameters[0].annotation
    if isinstance(annotation, str):
        if f"{of.__name__}[" not in annotation:
            return None
        try:
            annotation = typing.get_type_hints(function)[parameters[0].name]
        except NameError as error:
            text = f"the annotation {annotation!r} of a handler cannot be resolved ({error}); pass type=… instead"
            raise TypeError(text) from None
    if typing.get_origin(annotation) is not of:
        return None
    [kind] = typing.get_args(annotation)
    return None if kind in (object, Any) or isinstance(kind, TypeVar) else kind


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_validate_json") and hasattr(kind, "model_dump")


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__struct_fields__") and hasattr(kind, "__struct_config__")


def _checked_model(read: Callable[[], object], name: str) -> object:
    try:
        return read()
    except ValueError as error:
        told = getattr(error, "errors", None)
        first: Mapping[str, Any] = told()[0] if callable(told) else {"loc": (), "msg": text_of(error)}
        raise MismatchError(_path(name, first["loc"]), str(first["msg"])) from None


def _checked_struct(read: Callable[[], object], name: str) -> object:
    try:
        return read()
    except ValueError as error:  # msgspec.DecodeError is one
        text = str(error)
        found = _MSGSPEC_PATH.search(text)
        path = name + (found.group(1) if found else "")
        raise MismatchError(path, text[: found.start()] if found else text) from None


def _path(name: str, parts: Iterable[object]) -> str:
    return name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _shown(value: object) -> object:
    """Returns a value inside a dataclass as `json` can encode it; unknown ones are left to `plain`."""
    match value:
        case enum.Enum():
            return _shown(value.value)
        case datetime():
            if value.utcoffset() is None:
                raise ValueError("a datetime needs a time zone")
            return value.isoformat()
        case date():
            return value.isoformat()
        case UUID() | Decimal():
            return str(value)
        case set() | frozenset() | list() | tuple():
            return [_shown(each) for each in value]
        case dict():
            return {key: _shown(each) for key, each in value.items()}
        case _:
            return value


_LISTS: Final[dict[object, Callable[[list[Any]], object]]] = {
    list: list,
    Sequence: list,
    Iterable: list,
    set: set,
    frozenset: frozenset,
}

_SCALARS: Final[dict[object, tuple[tuple[type, ...], str]]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    dict: ((dict,), "an object"),
    list: ((list,), "a list"),
    type(None): ((type(None),), "null"),
}

_PARSED: Final[dict[object, tuple[Callable[[Any], Any], str]]] = {
    datetime: (datetime.fromisoformat, "a time such as 2026-01-31T12:00:00Z"),
    date: (date.fromisoformat, "a date such as 2026-01-31"),
    UUID: (UUID, "a UUID"),
    Decimal: (Decimal, "a decimal number as text"),
}


def _converter(kind: Any, known: dict[Any, _Convert]) -> _Convert:
    """Returns the conversion to a type; `known` holds those of the classes around it, which it may refer to."""
    if isinstance(kind, typing.NewType):
        return _converter(kind.__supertype__, known)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _converter(args[0], known)
    if kind in (Any, object):
        return lambda value, _: value
    if origin is typing.Literal:
        return _one_of(args)
    if origin in (typing.Union, types.UnionType):
        return _union([_converter(each, known) for each in args])
    if origin in _LISTS:
        return _list_of(_converter(args[0], known), _LISTS[origin])
    if origin is tuple:
        return _tuple_of(args, known)
    if origin in (dict, Mapping):
        return _dict_of(args, known)
    return _class_converter(kind, known)


def _class_converter(kind: Any, known: dict[Any, _Convert]) -> _Convert:
    if kind is None or kind in _SCALARS:
        return _scalar(*_SCALARS[type(None) if kind is None else kind])
    if kind in _PARSED:
        return _parsed(*_PARSED[kind])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enum(kind)
    if _is_model(kind):
        return lambda value, path: _checked_model(lambda: kind.model_validate(value), path)
    if _is_struct(kind):
        import msgspec  # noqa: PLC0415 - see above

        return lambda value, path: _checked_struct(lambda: msgspec.convert(value, kind), path)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return known[kind] if kind in known else _dataclass(kind, known)
    raise TypeError(f"values of the type {kind!r} cannot be read from JSON")


def _scalar(accepted: tuple[type, ...], name: str) -> _Convert:
    as_float = float in accepted

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise MismatchError(path, f"must be {name}, not {_json_name(value)}")
        return float(cast("float", value)) if as_float else value

    return convert


def _parsed(parse: Callable[[Any], Any], name: str) -> _Convert:
    def convert(value: Any, path: str) -> Any:
        try:
            if isinstance(value, str):
                return parse(value)
        except (ValueError, InvalidOperation):
            pass
        raise MismatchError(path, f"must be {name}")

    return convert


def _enum(kind: type[enum.Enum]) -> _Convert:
    def convert(value: Any, path: str) -> Any:
        try:
            return kind(value)
        except ValueError:
            shown = ", ".join(repr(each.value) for each in kind)
            raise MismatchError(path, f"must be one of {shown}") from None

    return convert


def _one_of(values: tuple[Any, ...]) -> _Convert:
    def convert(value: Any, path: str) -> Any:
        for each in values:
            if each == value and type(each) is type(value):
                return each
        raise MismatchError(path, f"must be one of {', '.join(map(repr, values))}")

    return convert


def _union(options: list[_Convert]) -> _Convert:
    def convert(value: Any, path: str) -> Any:
        problems = []
        for option in options:
            try:
                return option(value, path)
            except MismatchError as error:
                problems.append(error)
        # The option that got furthest into the value is most likely the one that was meant.
        raise max(problems, key=lambda problem: len(problem.path))

    return convert


def _list_of(item: _Convert, make: Callable[[list[Any]], object]) -> _Convert:
    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise MismatchError(path, f"must be a list, not {_json_name(value)}")
        return make([item(each, f"{path}[{index}]") for index, each in enumerate(value)])

    return convert


def _tuple_of(args: tuple[Any, ...], known: dict[Any, _Convert]) -> _Convert:
    if len(args) == 2 and args[1] is Ellipsis:
        return _list_of(_converter(args[0], known), tuple)
    items = [_converter(each, known) for each in args]

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, list) or len(value) != len(items):
            raise MismatchError(path, f"must be a list of {len(items)}")
        return tuple(
            item(each, f"{path}[{index}]") for index, (item, each) in enumerate(zip(items, value, strict=True))
        )

    return convert


def _dict_of(args: tuple[Any, ...], known: dict[Any, _Convert]) -> _Convert:
    if args[0] is not str:
        raise TypeError("keys of an object in JSON are texts: write dict[str, …]")
    item = _converter(args[1], known)

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise MismatchError(path, f"must be an object, not {_json_name(value)}")
        return {key: item(each, f"{path}.{key}") for key, each in value.items()}

    return convert


def _dataclass(kind: Any, known: dict[Any, _Convert]) -> _Convert:
    fields: list[tuple[str, bool, _Convert]] = []

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise MismatchError(path, f"must be an object, not {_json_name(value)}")
        given = {}
        for name, is_needed, item in fields:
            if name in value:
                given[name] = item(value[name], f"{path}.{name}")
            elif is_needed:
                raise MismatchError(f"{path}.{name}", "is missing")
        try:
            return kind(**given)
        except (TypeError, ValueError) as error:  # from the program's __post_init__
            raise MismatchError(path, text_of(error)) from None

    known[kind] = convert
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(f"the annotations of {kind.__name__} cannot be resolved: {error}") from None
    for field in dataclasses.fields(kind):
        if field.init:
            is_needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            fields.append((field.name, is_needed, _converter(hints[field.name], known)))
    return convert


def _json_name(value: object) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), "a number")
