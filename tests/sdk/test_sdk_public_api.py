"""The public names of the SDK change only together with the file that lists them."""

from __future__ import annotations

import inspect

import codeq
import public_api
from codeq import testing


def test_public_names_are_those_of_the_golden_file() -> None:
    golden = public_api.GOLDEN.read_text()
    assert public_api.describe() == golden, "if the change is meant, run: python tests/sdk/public_api.py"


def test_every_public_class_and_method_is_documented() -> None:
    lacking = []
    for module in (codeq, testing):
        for name in module.__all__:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            if not inspect.getdoc(value):
                lacking.append(name)
            members = vars(value).items() if inspect.isclass(value) else ()
            public = ((each, member) for each, member in members if not each.startswith("_"))
            lacking += [
                f"{name}.{each}"
                for each, member in public
                if (inspect.isroutine(member) or isinstance(member, property)) and not inspect.getdoc(member)
            ]
    assert lacking == []
