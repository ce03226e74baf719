"""Schemas of payloads: what they may contain, what a payload must be, and how much time a check may take."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from codeq_server.core.clock import Now
from codeq_server.core.errors import Reason
from codeq_server.core.new_task import NewTask
from codeq_server.core.policy import Policy, fitted
from codeq_server.services import payload_schemas
from codeq_server.services.payload_schemas import SUBSCHEMAS_MAX, Checker, InvalidSchema, compiled

NOW = Now(1_000, 1_000)
misfit = Checker().misfit
ORDER = {
    "type": "object",
    "properties": {"lines": {"items": {"$ref": "#/$defs/line"}}, "a/b~c": {"type": "string"}},
    "required": ["lines"],
    "$defs": {"line": {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}}},
}


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "payload", [{"lines": []}, {"lines": [{"count": 2}], "more": None}, {"lines": [], "a/b~c": ""}]
)
def test_payload_that_fits_is_accepted(payload: object) -> None:
    assert misfit(written(ORDER), written(payload)) == ""


@pytest.mark.parametrize(
    ("payload", "where", "why"),
    [
        (b"[]", "the whole payload", 'is not of type "object"'),
        (b"{}", "the whole payload", '"lines" is a required property'),
        (b'{"lines": [{"count": 1}, {"count": 0}]}', "/lines/1/count", "less than the minimum of 1"),
        (b'{"lines": [], "a/b~c": 7}', "/a~1b~0c", 'is not of type "string"'),
    ],
)
def test_misfit_names_the_place_and_not_the_value(payload: bytes, where: str, why: str) -> None:
    text = misfit(written(ORDER), payload)
    assert f": {where}: " in text
    assert why in text
    assert "7" not in text


def test_payload_with_an_unpaired_surrogate_is_checked() -> None:
    assert misfit(written({"type": "string"}), b'"\\ud800"') == ""
    assert misfit(written({"type": "object"}), b'"\\ud800"') != ""


@pytest.mark.parametrize("payload", [b"1" * 5_000, b"1e400", b"[" * 800 + b"]" * 800], ids=["long", "large", "deep"])
def test_payload_that_cannot_be_checked_is_refused(payload: bytes) -> None:
    schema = {"anyOf": [{"type": "number"}, {"items": {"enum": [1]}}, {"const": [[[1]]]}]}
    assert misfit(written(schema), payload) != ""


def chain(length: int) -> dict[str, Any]:
    """Returns a schema whose size doubles with each definition."""
    each = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**each, f"d{length}": {"type": "string"}}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (b"[]", "must be a JSON object"),
        (b"true", "must be a JSON object"),
        (b"{", "must be a JSON object"),
        (b"[" * 3_000, "must be a JSON object"),
        (written({"items": {"type": "text"}}), "no valid schema: /items/type: must be the name of a JSON type"),
        (written({"minimum": "1"}), "no valid schema: /minimum: the value is not of type"),
        (written({"pattern": "(?=a)"}), "no valid schema: /pattern: must be a regular expression without look-around"),
        (written({"pattern": "(a"}), "no valid schema"),
        (written({"pattern": "(([a-z]{50}){50}){50}"}), "no valid schema"),
        (written({"$schema": "http://json-schema.org/draft-07/schema#"}), "must be in the dialect"),
        (written({"$ref": "https://example.com/schema"}), "only references like #"),
        (written({"$ref": "file:///etc/passwd"}), "only references like #"),
        (written({"$ref": "#/$defs/a%41", "$defs": {"a%41": {}}}), "only references like #"),
        (written({"$ref": "#/$defs/a"}), "which it does not have"),
        (written({"items": {"$ref": "#"}}), "must not refer to itself"),
        (written({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}), "must not refer to itself"),
        (written({"$defs": {"a": {"$id": "https://example.com/"}}}), "must not use $id"),
        (written({"unevaluatedProperties": False}), "must not use unevaluatedProperties"),
        (written(chain(20)), f"more than {SUBSCHEMAS_MAX}"),
        (written(nested(70)), "nested deeper than 64"),
    ],
)
def test_schema_that_cannot_be_used_is_refused(schema: bytes, why: str) -> None:
    with pytest.raises(InvalidSchema) as caught:
        compiled(schema)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 500


def test_schema_is_compiled_once() -> None:
    schema = written({"title": "once"})
    assert compiled(schema) is compiled(bytes(bytearray(schema)))


def test_check_has_a_limit_of_steps() -> None:
    schema = written({"items": {"allOf": [{"type": "integer"}, {"minimum": 0}] * 20}})
    assert misfit(schema, written([1] * 5_000)) == ""
    began = time.process_time()
    assert "is too large" in misfit(schema, written([1] * 7_000))
    assert time.process_time() - began < 1
    assert payload_schemas.STEPS_MAX // compiled(schema).size < 7_000


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"items": {"anyOf": [{"minimum": 2.5}] * 39 + [{}]}}, [1] * 5_900),
        ({"pattern": "(a|b)*a(a|b){200}[cd]"}, "".join(random.Random(1).choices("ab", k=31_000))),
    ],
    ids=["subschemas", "pattern"],
)
def test_slow_schema_with_the_largest_payload_is_checked(schema: object, payload: object) -> None:
    ready, given = written(schema), written(payload)
    compiled(ready)
    assert "is too large" not in misfit(ready, given)


@pytest.mark.parametrize(
    ("keywords", "value"),
    [
        ({"enum": [[n] for n in range(1_500)]}, b"[1499]"),
        ({"enum": [*range(1_500), []]}, b"1499"),
        ({"enum": [n + 0.5 for n in range(1_500)]}, b"1499.5"),
        ({"const": 0.5}, b"0.5"),
        ({"dependentRequired": {f"{n:x}": [] for n in range(1_700)}}, b"{}"),
        ({"multipleOf": 1e-300}, b"1e80"),
    ],
    ids=["lists", "mixed", "fractions", "constant", "dependencies", "multiples"],
)
def test_comparisons_count_as_steps(keywords: dict[str, Any], value: bytes) -> None:
    schema, size = written({"items": keywords}), compiled(written({"items": {}})).size
    assert misfit(schema, b"[" + value + b"]") == ""
    many = [value] * (payload_schemas.STEPS_MAX // size // 10)
    assert "is too large" in misfit(schema, b"[" + b",".join(many) + b"]")


@pytest.mark.parametrize(
    ("number", "fits"),
    [(b"9" * 80, True), (b"9" * 81, False), (b"-1e81", False), (b"1e-30", True), (b"1e-31", False), (b"0.0", True)],
)
def test_numbers_that_are_slow_to_compare_are_refused(number: bytes, *, fits: bool) -> None:
    text = misfit(written({"items": {"minimum": -1e300}}), b"[" + number + b"]")
    assert ("a number is out of range" not in text) is fits
    assert (text == "") is fits


def test_stored_schema_that_cannot_be_used_refuses_payloads() -> None:
    assert misfit(written({"$id": "a"}), b"{}") == (
        "cannot be checked with the queue's payloadSchema, which must not use $id"
    )


def test_patterns_have_a_limit_of_bytes() -> None:
    of = {"$ref": "#/$defs/name"}
    schema = written({"properties": {"a": of, "b": of}, "$defs": {"name": {"pattern": "^[a-z]{1,32}$"}}})
    assert misfit(schema, written({"a": "x", "b": "y", "c": "z" * 15_000})) == ""
    assert "is too large" in misfit(schema, written({"a": "x", "c": "z" * 20_000}))


def test_payload_that_does_not_fit_the_schema_is_refused() -> None:
    own, task = Policy(payload_schema=b"{}"), NewTask("a", b"[1]")
    seen: list[tuple[bytes, bytes]] = []

    def check(schema: bytes, payload: bytes) -> str:
        seen.append((schema, payload))
        return "is no object" if payload == b"[1]" else ""

    misfit = fitted(own, task, NOW, "spec.", check).misfit
    assert misfit is not None
    assert (misfit.reason, [*misfit.violations]) == (Reason.POLICY_VIOLATION, [("spec.payload", "is no object")])
    assert fitted(own, NewTask("a", b"{}"), NOW, check=check).misfit is None
    assert fitted(Policy(), task, NOW, check=check).misfit is None
    assert seen == [(b"{}", b"[1]"), (b"{}", b"{}")]
