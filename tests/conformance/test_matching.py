"""Expectations accept what they describe, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from matching import filled, mismatch


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 7}, {"a": "7"}),
        ({"a": "$absent"}, {}),
        ({"a": "$absent"}, {"a": None}),
        ({"a": "$zero"}, {"a": 0}),
        ([1, {"$gte": 2}], [1, 3]),
        ({"$has": [2, 1]}, [1, 2, 3]),
        ({"$len": {"$lte": 3}}, "abc"),
        ({"$not": "a"}, "b"),
        ({"$in": [{"$between": [1, 2]}, "x"]}, 1.5),
        ({"$re": "^ab"}, "abc"),
        ({"$within": ["2026-01-01T00:00:00Z", 1]}, "2026-01-01T00:00:01.000Z"),
    ],
)
def test_matches(expected: Any, found: Any) -> None:
    assert mismatch(expected, found) is None


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {}),
        ({"a": 1}, {"a": True}),
        ({"a": True}, {"a": 1}),
        ({"a": "1"}, {"a": 1}),
        ({"a": "$absent"}, {"a": 0}),
        ({"a": "$any"}, {}),
        ({"a": "$text"}, {"a": ""}),
        ([1], [1, 2]),
        ({"$has": [4]}, [1, 2, 3]),
        ({"$len": 2}, "abc"),
        ({"$not": "$any"}, "b"),
        ({"$gte": 2}, "two"),
        ({"$re": "^b"}, "abc"),
        ({"$within": ["2026-01-01T00:00:00Z", 1]}, "2026-01-01T00:00:02Z"),
    ],
)
def test_differs(expected: Any, found: Any) -> None:
    assert mismatch(expected, found) is not None


def test_difference_names_its_place() -> None:
    told = mismatch({"task": {"tags": [1, 2]}}, {"task": {"tags": [1, 3]}})
    assert told == "reply.task.tags[1]: expected 2, found 3"


def test_variables_keep_their_types_and_fill_texts() -> None:
    known = {"a": {"b": [1, {"c": None}]}}
    assert filled(["${a.b.0}", "n=${a.b.0}", "${a.b.1.c}"], known) == [1, "n=1", None]
    assert filled({"$join": ["<", {"$repeat": ["x", 3]}, "${a.b.0}>"]}, known) == "<xxx1>"
    with pytest.raises(KeyError):
        filled("${a.z}", known)
