"""A value of JSON is to the predictor what it is to the contract, which the graph and `penstock predict` ask."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import contract
from penstock.artifact.inputs import feeds
from penstock.artifact.manifest import Input, element_type
from penstock.config import Column
from penstock.serving.values import checker

COLUMNS = {
    "integer": Column(type="integer", min=-5, max=1_000_000),
    "integer anyhow": Column(type="integer", nullable=True),
    "number": Column(type="number", min=-2.5, max=1e9),
    "number anyhow": Column(type="number", nullable=True),
    "boolean": Column(type="boolean", nullable=True),
    "category": Column(type="category", values=("a", "b", "1", "true")),
    "category anyhow": Column(type="category", nullable=True),
    "text": Column(type="text", nullable=True),
    "date": Column(type="date", nullable=True, min="1990-01-01", max="2100-12-31"),
    "datetime": Column(type="datetime", nullable=True, min="1990-01-01", max="2100-12-31"),
}
SPACE = st.sampled_from(["", " ", "\t", "\u00a0", "\u2003", "\x1c"])
WRITTEN = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False).map(repr),
    st.from_regex(r"[+-]?\d{0,3}\.?\d{0,3}([eE][+-]?\d{1,3})?", fullmatch=True),
    st.sampled_from(["true", "F", "YES", "nan", "inf", "-Infinity", "1_0", "0x1", "٣", "a", "b", "A"]),
    st.dates().map(str),
    st.from_regex(r"(19|20)\d\d-[01]?\d-[0-3]?\d", fullmatch=True),
    st.datetimes().map(lambda moment: moment.isoformat(sep="T")),
    st.datetimes(timezones=st.timezones()).map(str),
    st.text(max_size=5),
)
TEXTS = st.builds(lambda before, text, after: before + text + after, SPACE, WRITTEN, SPACE)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_infinity=False, allow_nan=False),
    TEXTS,
)


def by_the_contract(column: Column, value: object) -> object:
    """What enters the graph of a table with this one value; None if the row is rejected."""
    checked = contract.check(pl.DataFrame({"x": [value]}, strict=False), {"x": column}, source="test")
    if not checked.good.height:
        return None
    item = Input(name="x", element=element_type(column.type), column=column)
    return feeds(checked.good, [item])["x"][0, 0]


def by_the_predictor(column: Column, value: object) -> object:
    found, told = checker(column)(value)
    if told is not None:
        return None
    if element_type(column.type) == "float":
        with np.errstate(over="ignore"):
            return np.float64(found).astype(np.float32)
    return found


@pytest.mark.parametrize("name", list(COLUMNS))
@settings(max_examples=150, deadline=None)
@given(value=VALUES)
@example(value=" 3.0 ")
@example(value=2.5e-5)
@example(value=1e16)
@example(value=-0.0)
@example(value=2**63 - 1)
@example(value="2024-02-30")
@example(value="2024-1-5")
@example(value="2024-05-01T10:00:00.1234567+02:00")
def test_a_value_is_what_the_contract_takes_it_for(name, value):
    column = COLUMNS[name]
    expected, found = by_the_contract(column, value), by_the_predictor(column, value)
    if isinstance(expected, float | np.floating) and math.isnan(expected):
        assert isinstance(found, float | np.floating)
        assert math.isnan(found)
    else:
        assert found == expected


def test_what_is_wrong_is_said_as_the_contract_says_it():
    frame = pl.DataFrame({"age": ["abc"]})
    column = Column(type="integer", min=0)
    told = contract.check(frame, {"age": column}, source="test").bad["reason"][0]
    assert told == f"age: {checker(column)('abc')[1]}"
    low = contract.check(pl.DataFrame({"age": [-1]}), {"age": column}, source="test").bad["reason"][0]
    assert low == f"age: {checker(column)(-1)[1]}"


@pytest.mark.parametrize("value", [[1], {"a": 1}])
@pytest.mark.parametrize("name", list(COLUMNS))
def test_what_is_no_scalar_fits_nowhere(name, value):
    assert "expected" in str(checker(COLUMNS[name])(value)[1])
