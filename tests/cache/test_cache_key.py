"""Two queries are one only when every value, type, name and factory is the same."""

from __future__ import annotations

import datetime
import decimal
import enum
from collections import OrderedDict, defaultdict
from itertools import combinations
from typing import Any

import pytest

from flask_dbopt.cache.key import key_of, weight_of


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Level(enum.IntEnum):
    LOW = 1


def key(parameters: Any, sql: str = "SELECT ?", factories: Any = None) -> tuple[Any, ...] | None:
    return key_of("default", sql, parameters, factories)


def test_values_that_compare_equal_but_differ_in_type_are_different_keys() -> None:
    values = [1, 1.0, True, "1", b"1", None, 0, 0.0, -0.0, False, "", b"", 2**53, float(2**53)]
    for first, second in combinations(values, 2):
        assert key((first,)) != key((second,)), (first, second)
        assert key({"a": first}) != key({"a": second}), (first, second)


def test_a_list_is_read_as_a_tuple_and_copied() -> None:
    parameters = [1, "a"]
    made = key(parameters)
    assert made == key((1, "a"))
    parameters.append("b")
    assert made == key((1, "a"))


def test_the_order_of_named_parameters_does_not_matter_but_their_names_do() -> None:
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert key({"a": 1, "b": 2}) != key({"a": 2, "b": 1})
    assert key({"a": 1}) != key({"b": 1})
    assert key({"a": 1}) != key((1,))


def test_text_database_and_factories_are_part_of_the_key() -> None:
    assert key((1,)) != key((1,), sql="SELECT  ?")
    assert key((1,)) != key((1,), factories=(str,))
    assert key_of("default", "SELECT 1", (), None) != key_of("other", "SELECT 1", (), None)


def test_what_stands_in_one_place_never_equals_what_stands_in_another() -> None:
    assert key((1, 23)) != key((12, 3))
    assert key(("a", "b")) != key(("ab",))
    assert key((1, "1")) != key(("1", 1))


@pytest.mark.parametrize(
    "value",
    [
        Text("a"),
        Number(1),
        Level.LOW,
        bytearray(b"a"),
        memoryview(b"a"),
        [1],
        (1,),
        {"a": 1},
        object(),
        decimal.Decimal(1),
        datetime.date(2026, 1, 1),
    ],
)
def test_a_value_of_any_other_type_gives_no_key(value: Any) -> None:
    assert key((value,)) is None
    assert key({"a": value}) is None


@pytest.mark.parametrize(
    "parameters",
    [
        "ab",
        iter((1,)),
        range(2),
        None,
        OrderedDict(a=1),
        defaultdict(int, a=1),
        {1: "a"},
        {Text("a"): 1},
        {"a": 1, 2: 3},
    ],
)
def test_any_other_kind_of_parameters_gives_no_key(parameters: Any) -> None:
    assert key(parameters) is None


def test_the_weight_of_a_key_grows_with_what_it_holds() -> None:
    small, large = key(("a",)), key(("a" * 5000,))
    bare = key(())
    assert small is not None
    assert large is not None
    assert bare is not None
    assert weight_of(bare) < weight_of(small) < weight_of(large) - 4900
