"""Nested rows made flat, with nothing lost on the way."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import PenstockError
from penstock.sources.flattening import flat, tabled


def test_structs_become_columns_in_place_and_lists_json_text():
    frame = pl.DataFrame(
        {
            "id": [1, 2],
            "who": [{"name": "Ida", "at": {"zip": 7}}, None],
            "tags": [["ä", 'q"'], []],
            "z": [0, 0],
        }
    )
    assert flat(frame).to_dict(as_series=False) == {
        "id": [1, 2],
        "who__name": ["Ida", None],
        "who__at__zip": [7, None],
        "tags": ['["ä","q\\""]', "[]"],
        "z": [0, 0],
    }


def test_a_flat_frame_is_returned_as_it_is():
    frame = pl.DataFrame({"a": [1], "b": [date(2020, 1, 1)], "c": [b"\xff"]})
    assert flat(frame) is frame


def test_missing_and_empty_are_told_apart():
    lists = pl.Series("l", [None, [], [None]], dtype=pl.List(pl.Int64))
    assert flat(lists.to_frame())["l"].to_list() == [None, "[]", "[null]"]
    empty = pl.Series("s", [{}, None], dtype=pl.Struct([]))
    assert flat(empty.to_frame())["s"].to_list() == ["{}", None]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1.5, math.nan, math.inf]], "[1.5,NaN,Infinity]"),
        ([[b"\xff\x00"]], '["/wA="]'),
        ([[{"a": [1], "b": date(2020, 1, 2)}]], '[{"a":[1],"b":"2020-01-02"}]'),
        ([[datetime(2020, 1, 2, 3, tzinfo=UTC)]], '["2020-01-02T03:00:00+00:00"]'),
        ([[2**63 - 1]], f"[{2**63 - 1}]"),
    ],
    ids=["not finite", "bytes", "objects", "moment", "large"],
)
def test_a_list_keeps_each_value(values, expected):
    assert flat(pl.DataFrame({"v": values}))["v"].to_list() == [expected]


def test_arrays_are_lists():
    frame = pl.DataFrame({"v": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2))})
    assert flat(frame)["v"].to_list() == ["[1,2]", None]


def test_a_field_never_takes_the_place_of_a_column():
    with pytest.raises(PenstockError, match="'a__b'"):
        flat(pl.DataFrame({"a__b": [1], "a": [{"b": 2}]}))
    with pytest.raises(PenstockError, match="'a__b'"):
        tabled([{"a": {"b": 1}, "a__b": 2}])


def test_a_frame_without_rows_has_the_same_columns():
    frame = pl.DataFrame(schema={"s": pl.Struct({"a": pl.Int64, "l": pl.List(pl.String)})})
    assert flat(frame).schema == {"s__a": pl.Int64, "s__l": pl.String}


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 2], pl.Int64, [1, None, 2]),
        ([True, False], pl.Boolean, [True, False]),
        ([1, 2.5], pl.Float64, [1.0, 2.5]),
        (["a", None], pl.String, ["a", None]),
        ([1, True], pl.String, ["1", "true"]),
        ([1, "1", 1.5, None], pl.String, ["1", "1", "1.5", None]),
        ([2**63], pl.String, [str(2**63)]),
        ([2**53 + 1, 0.5], pl.String, [str(2**53 + 1), "0.5"]),
        ([math.inf, "x"], pl.String, ["Infinity", "x"]),
        ([[1, "a"], {}], pl.String, ['[1,"a"]', "{}"]),
        ([date(2020, 1, 2), 1], pl.String, ["2020-01-02", "1"]),
        ([None], pl.String, [None]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_a_column_of_one_kind_keeps_it_and_any_other_is_text(values, kind, expected):
    found = tabled([{"v": value} for value in values])["v"]
    assert (found.dtype, found.to_list()) == (kind, expected)


def test_nan_stays_nan():
    assert math.isnan(tabled([{"v": math.nan}, {"v": 1}])["v"][0])


def test_records_need_not_have_the_same_keys_nor_any():
    found = tabled([{"a": 1}, {}, {"b": {"c": None}, "a": 2}, {"b": "x"}])
    assert found.to_dict(as_series=False) == {
        "a": [1, None, 2, None],
        "b__c": [None] * 4,
        "b": [None, None, None, "x"],
    }
    assert tabled([{}, {}]).shape == (2, 0)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


def fields(value, prefix):
    """What a record says, by column; a definition that shares nothing with the code."""
    if isinstance(value, dict) and (value or not prefix):
        return {
            name: found
            for key, inner in value.items()
            for name, found in fields(inner, [*prefix, key]).items()
        }
    return {"__".join(prefix): value}


def same(found, said) -> bool:
    if isinstance(said, list | dict):
        return repr(json.loads(found)) == repr(said)
    if isinstance(found, str) and not isinstance(said, str | None):
        found = json.loads(found)
    if isinstance(said, float) and math.isnan(said):
        return math.isnan(found)
    return found == said and isinstance(found, bool) == isinstance(said, bool)


@given(st.lists(st.dictionaries(st.text("abc", min_size=1, max_size=2), values, max_size=4), max_size=6))
def test_no_value_is_lost_or_altered(records):
    found = tabled(records)
    assert found.height == len(records)
    for row, record in zip(found.iter_rows(named=True), records, strict=True):
        said = fields(record, [])
        for name, value in row.items():
            assert same(value, said.get(name)), (name, value, said.get(name))
        assert set(said) <= set(row)
