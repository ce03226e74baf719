from __future__ import annotations

import pytest
from codeq_cli import json_text

OBJECT = ' { "a" : 1.50, "b":[ 1 , {"c":"]}"} ],"a\\u0062": "x\\"y" , "n":null}\n'


def test_object_members_are_returned_as_written() -> None:
    assert json_text.members(OBJECT) == {"a": "1.50", "b": '[ 1 , {"c":"]}"} ]', "ab": '"x\\"y"', "n": "null"}


def test_array_elements_are_returned_as_written() -> None:
    assert json_text.elements('[ {"a": 1e400} , "," ,-0]') == ['{"a": 1e400}', '","', "-0"]


@pytest.mark.parametrize(("text", "function"), [("{ }", json_text.members), ("[\n]", json_text.elements)])
def test_empty_object_or_array_has_no_items(text: str, function: object) -> None:
    assert callable(function)
    assert not function(text)


@pytest.mark.parametrize("text", ["", "[1]", "1", "{", '{"a":1}x', '{"a":NaN}'])
def test_members_raises_an_error_if_the_text_is_not_one_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.members(text)


@pytest.mark.parametrize("text", ["", "  ", "NaN", "-Infinity", "{a:1}", "1 2", '"\t"', "'x'", "[1,]", "\ufeff1"])
def test_parse_raises_an_error_if_the_text_is_not_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.parse(text)


def test_parse_raises_an_error_if_the_text_is_nested_too_deeply() -> None:
    with pytest.raises(ValueError, match="nested"):
        json_text.parse("[" * 200000)


def test_parse_keeps_every_digit_of_numbers() -> None:
    digits = "1" * 5000
    assert json_text.parse(f"[{digits},1.10,1E400]") == [digits, "1.10", "1E400"]


def test_join_embeds_values_unchanged() -> None:
    assert json_text.join({"ä": "1.0", "b": '{ "x" : 1 }'}) == '{"ä":1.0,"b":{ "x" : 1 }}'
