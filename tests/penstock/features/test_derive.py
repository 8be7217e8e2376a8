"""Derived columns against plain Python, one row at a time."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from penstock.config import Derived
from penstock.errors import PenstockError
from penstock.features.derive import derive, inputs

ADAPTER = TypeAdapter(Derived)
NUMBERS = st.one_of(st.none(), st.floats(-1e6, 1e6, width=32))


def make(**settings: object) -> Derived:
    return ADAPTER.validate_python({"name": "new", **settings})


def one(derived: Derived, **row: object) -> object:
    kinds = {float: pl.Float32, str: pl.String, dt.date: pl.Date, dt.datetime: pl.Datetime("us", "UTC")}
    schema = {name: kinds.get(type(value), pl.Float32) for name, value in row.items()}
    return derive(pl.DataFrame({name: [value] for name, value in row.items()}, schema=schema), [derived])[
        "new"
    ][0]


@given(NUMBERS, NUMBERS)
def test_a_ratio_is_null_over_zero(a, b):
    got = one(make(op="ratio", numerator="a", denominator="b"), a=a, b=b)
    if a is None or b is None or b == 0:
        assert got is None
    else:
        with np.errstate(over="ignore"):
            assert got == np.float32(a) / np.float32(b)


@given(NUMBERS, NUMBERS)
def test_sum_difference_and_product(a, b):
    wanted = {
        "sum": lambda x, y: x + y,
        "difference": lambda x, y: x - y,
        "product": lambda x, y: x * y,
    }
    for op, compute in wanted.items():
        settings = {"left": "a", "right": "b"} if op == "difference" else {"columns": ["a", "b"]}
        got = one(make(op=op, **settings), a=a, b=b)
        assert got == (None if a is None or b is None else compute(np.float32(a), np.float32(b)))


@given(NUMBERS)
def test_log1p_is_null_where_there_is_none(x):
    got = one(make(op="log1p", column="x"), x=x)
    if x is None or x <= -1:
        assert got is None
    else:
        assert math.isclose(got, math.log1p(np.float32(x)), rel_tol=1e-6, abs_tol=1e-12)


@given(NUMBERS, st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=5))
def test_bins_count_the_edges_that_are_reached(x, edges):
    got = one(make(op="bins", column="x", edges=edges), x=x)
    assert got == (None if x is None else sum(edge <= x for edge in edges))


@given(st.dates(dt.date(1600, 1, 1), dt.date(2400, 12, 31)))
def test_parts_of_a_date(day):
    wanted = {"year": day.year, "month": day.month, "day": day.day, "weekday": day.isoweekday()}
    assert {part: one(make(op="date_part", column="d", part=part), d=day) for part in wanted} == wanted


def test_the_hour_is_that_of_utc():
    moment = dt.datetime(2024, 2, 29, 23, 59, tzinfo=dt.UTC)
    assert one(make(op="date_part", column="t", part="hour"), t=moment) == 23


def test_a_cross_is_null_where_either_is():
    cross = make(op="cross", columns=["a", "b"])
    frame = pl.DataFrame({"a": ["x", None, ""], "b": ["y", "y", "z"]})
    assert derive(frame, [cross])["new"].to_list() == ["x × y", None, " × z"]


def test_later_columns_may_use_earlier_ones():
    first = make(op="sum", columns=["a", "b"])
    second = make(op="product", columns=["new", "a"]).model_copy(update={"name": "newer"})
    frame = pl.DataFrame({"a": [2.0], "b": [3.0]}, schema={"a": pl.Float32, "b": pl.Float32})
    assert derive(frame, [first, second]).row(0) == (2.0, 3.0, 5.0, 10.0)


def test_every_op_says_what_it_is_made_from():
    assert inputs(make(op="ratio", numerator="a", denominator="b")) == ("a", "b")
    assert inputs(make(op="cross", columns=["a", "b", "c"])) == ("a", "b", "c")
    assert inputs(make(op="bins", column="a", edges=[1])) == ("a",)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"op": "log1p", "column": "tenrue"},
            "needs the column 'tenrue', which is not there\n  → did you mean 'tenure'?",
        ),
        ({"op": "log1p", "column": "plan"}, "needs 'plan' to be a number; it is String"),
        ({"op": "cross", "columns": ["plan", "tenure"]}, "needs 'tenure' to be a category; it is Float32"),
        ({"op": "date_part", "column": "tenure", "part": "year"}, "needs 'tenure' to be a date"),
        ({"op": "date_part", "column": "day", "part": "hour"}, "'day' is a date and has no hour"),
    ],
)
def test_a_column_that_cannot_be_derived_is_named(settings, says):
    frame = pl.DataFrame(
        {"tenure": [1.0], "plan": ["a"], "day": [dt.date(2024, 1, 1)]},
        schema={"tenure": pl.Float32, "plan": pl.String, "day": pl.Date},
    )
    with pytest.raises(PenstockError) as error:
        derive(frame, [make(**settings)])
    assert says in str(error.value)
