"""Writes docs/reference/python.md from the SDK's public names and their docstrings; `make generate` runs it."""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final, get_origin

import codeq
from codeq import testing, webhooks

DOCUMENT: Final = Path(__file__).with_name("reference") / "python.md"
INTRODUCTION: Final = """# Python SDK: reference

All public names of `codeq`, `codeq.testing` and `codeq.webhooks`, written by `make generate` from the source. The guide
is the SDK's [README](../../sdks/python/README.md).
"""
WIDTH: Final = 100
"""Signatures that are longer are broken."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
_SECTION: Final = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_ITEM: Final = re.compile(r"(?P<names>\*{0,2}\w[\w.]*(?:, [\w.]+)*): (?P<text>.*)")
_NO_MEMBERS_OF: Final = (RuntimeError, Exception, BaseException, object, str, bytes)
_PUBLIC: Final = [getattr(module, name) for module in (codeq, testing, webhooks) for name in module.__all__]


class _Plain(str):
    """An annotation that a signature shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def fresh() -> str:
    """Returns the document."""
    return "\n".join(
        [
            INTRODUCTION,
            *_module("codeq", codeq),
            *_module("codeq.testing", testing),
            *_module("codeq.webhooks", webhooks),
        ]
    )


def _module(name: str, module: ModuleType) -> Iterator[str]:
    yield f"## {name}\n"
    for each in sorted(module.__all__):
        value = getattr(module, each)
        if inspect.isclass(value) and get_origin(value) is None:
            yield from _class(each, value)
        elif inspect.isfunction(value):
            yield from _function("###", each, each, value)
        else:
            yield f"### {each}\n\n{_code(f'{each} = {value!r}')}"


def _class(name: str, kind: type) -> Iterator[str]:
    bases = [base.__name__ for base in kind.__bases__ if base in _PUBLIC or base.__module__ == "builtins"]
    bases = [base for base in bases if base != "object"]
    yield f"### {name}\n"
    head = f"class {name}({', '.join(bases)})" if bases else f"class {name}"
    if issubclass(kind, enum.Enum):
        yield _code("\n".join([head, *(f"    {each.name} = {each.value!r}" for each in kind)]))
    else:
        has_init = any("__init__" in vars(base) for base in kind.__mro__ if base not in _NO_MEMBERS_OF)
        yield _code(_signature(f"class {name}", kind) if has_init and not bases else head)
    yield from _text(inspect.getdoc(kind) or "")
    for member in sorted(dir(kind)):
        owner = next((base for base in kind.__mro__ if member in vars(base)), object)
        is_inherited = owner is not kind and owner in _PUBLIC  # its own entry has it
        if not (member.startswith("_") or is_inherited or owner in _NO_MEMBERS_OF or issubclass(kind, enum.Enum)):
            yield from _member(kind, member)


def _member(kind: type, name: str) -> Iterator[str]:
    value = inspect.getattr_static(kind, name)
    if isinstance(value, property):
        assert value.fget is not None
        shown = inspect.signature(value.fget).return_annotation
        yield f"#### {kind.__name__}.{name}\n\n{_code(f'{name}: {shown}')}"
        yield from _text(inspect.getdoc(value) or "")
    elif inspect.isroutine(value):
        yield from _function("####", f"{kind.__name__}.{name}", name, getattr(kind, name))


def _function(level: str, title: str, name: str, function: object) -> Iterator[str]:
    word = "async def" if inspect.iscoroutinefunction(function) else "def"
    yield f"{level} {title}\n\n{_code(_signature(f'{word} {name}', function))}"
    yield from _text(inspect.getdoc(function) or "")


def _signature(head: str, function: object) -> str:
    found = inspect.signature(function)  # type: ignore[arg-type]
    parameters = [
        each.replace(annotation=_Plain(each.annotation)) if isinstance(each.annotation, str) else each
        for each in found.parameters.values()
        if each.name not in ("self", "cls")
    ]
    returned = found.return_annotation
    plain = found.replace(
        parameters=parameters, return_annotation=_Plain(returned) if isinstance(returned, str) else returned
    )
    text = _ADDRESS.sub("", f"{head}{plain}".removesuffix(" -> None") if head.startswith("class") else f"{head}{plain}")
    if len(text) <= WIDTH:
        return text
    inside, _, end = text.removeprefix(f"{head}(").rpartition(")")
    lines = "".join(f"    {part},\n" for part in _split(inside))
    return f"{head}(\n{lines}){end}"


def _split(parameters: str) -> list[str]:
    """Splits a list of parameters at its commas, except those inside brackets."""
    parts, depth, begin = [], 0, 0
    for at, sign in enumerate(parameters):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append(parameters[begin:at].strip())
            begin = at + 1
    return [*parts, parameters[begin:].strip()]


def _code(text: str) -> str:
    return f"```python\n{_ADDRESS.sub('', text)}\n```\n"


def _text(doc: str) -> Iterator[str]:
    """Yields the paragraphs of a docstring, with its sections as lists."""
    for paragraph in doc.split("\n\n") if doc else ():
        first, _, rest = paragraph.partition("\n")
        section = _SECTION.fullmatch(first)
        yield f"{paragraph}\n" if section is None else f"{section[1]}:\n\n{_list(textwrap.dedent(rest))}\n"


def _list(text: str) -> str:
    """Returns the items of a section as a list; a section without names is one item."""
    lines: list[str] = []
    for line in text.splitlines():
        item = None if line.startswith(" ") else _ITEM.fullmatch(line)
        if item is not None:
            lines.append(f"- `{item['names']}`: {item['text']}")
        else:
            lines.append(f"  {line.strip()}" if lines else f"- {line}")
    return "\n".join(lines)


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(fresh())
