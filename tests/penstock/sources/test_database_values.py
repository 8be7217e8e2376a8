from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.sources.database_values import as_found, from_python

CET = timezone(timedelta(hours=1))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(),
    st.text(),
    st.binary(max_size=8),
    st.decimals(allow_nan=True, allow_infinity=True),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(VALUES, max_size=8))
def test_nothing_is_lost_whatever_comes_together(values: list[object]) -> None:
    column = from_python("x", values, pl.String())
    assert len(column) == len(values)
    assert [value is None for value in column] == [value is None for value in values]
    if not column.dtype.is_temporal() and column.dtype != pl.String:
        for got, value in zip(column, values, strict=True):
            assert got == value or (got != got and value != value)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 2**63 - 1], pl.Int64(), [1, None, 2**63 - 1]),
        ([1, 2**64 - 1], pl.UInt64(), [1, 2**64 - 1]),
        ([-1, 2**64 - 1], pl.String(), ["-1", "18446744073709551615"]),
        ([1, 0.5], pl.Float64(), [1.0, 0.5]),
        ([2**53 + 1, 0.5], pl.String(), ["9007199254740993", "0.5"]),
        ([1, "abc", None], pl.String(), ["1", "abc", None]),
        ([True, None], pl.Boolean(), [True, None]),
        ([True, 2], pl.String(), ["true", "2"]),
        ([b"\xff\x00", "a"], pl.String(), ["/wA=", "a"]),
        ([Decimal("1.10"), Decimal("1E+3"), None], pl.Decimal(38, 2), [Decimal("1.10"), Decimal(1000), None]),
        ([Decimal("NaN"), Decimal("1.10")], pl.String(), ["NaN", "1.10"]),
        ([Decimal("1.10"), 7], pl.Decimal(38, 2), [Decimal("1.10"), Decimal(7)]),
        ([Decimal("1E+40")], pl.String(), ["1" + 40 * "0"]),
        ([date(2020, 1, 2), None], pl.Date(), [date(2020, 1, 2), None]),
        ([date(2020, 1, 2), "0000-00-00"], pl.String(), ["2020-01-02", "0000-00-00"]),
        ([datetime(2020, 1, 2, 3)], pl.Datetime("us"), [datetime(2020, 1, 2, 3)]),
        (
            [datetime(2020, 1, 2, 3, tzinfo=CET)],
            pl.Datetime("us", "UTC"),
            [datetime(2020, 1, 2, 2, tzinfo=UTC)],
        ),
        ([[1, "ä"], {"a": None}], pl.String(), ['[1, "ä"]', '{"a": null}']),
        ([timedelta(hours=26)], pl.String(), ["P1DT2H"]),
        ([None, None], pl.Int64(), [None, None]),
    ],
)
def test_a_column_has_the_type_of_all_its_values_or_is_text(
    values: list[object], kind: pl.DataType, expected: list[object]
) -> None:
    column = from_python("x", values, pl.Int64())
    assert (column.dtype, column.to_list()) == (kind, expected)


def test_what_does_not_fit_its_target_leaves_the_column_text() -> None:
    target = [pl.Decimal(4, 2)]
    fits = as_found(pl.DataFrame({"x": ["1.25", None]}), target)
    assert fits["x"].to_list() == [Decimal("1.25"), None]
    assert as_found(pl.DataFrame({"x": ["1.25", "NaN"]}), target)["x"].to_list() == ["1.25", "NaN"]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5))
def test_no_day_is_beyond_reading(days: list[int]) -> None:
    """polars itself panics at days that are in no calendar of its own."""
    column = pl.Series("x", days, dtype=pl.Int32).cast(pl.Date)
    found = as_found(column.to_frame(), [None])["x"]
    assert found.null_count() == 0
    for value in found.cast(pl.String):
        assert value


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_no_moment_is_beyond_reading(moments: list[int]) -> None:
    for unit in ("ms", "us", "ns"):
        column = pl.Series("x", moments, dtype=pl.Int64).cast(pl.Datetime(unit))
        found = as_found(column.to_frame(), [None])["x"]
        assert found.null_count() == 0
        for value in found.cast(pl.String):
            assert value
