"""A table is divided by its contract: what is good is typed, what is bad says why."""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import contract
from penstock.config import Column, Contract
from penstock.errors import PenstockError


def column(kind: str, **rules) -> Column:
    return Column(type=kind, **rules)


def divided(values, rules: Column, dtype: pl.DataType | None = None) -> tuple[list, list[str]]:
    """The good values of one column, and the reasons of the bad ones."""
    checked = contract.check(pl.DataFrame({"x": pl.Series(values, dtype=dtype)}), {"x": rules}, source="s")
    assert checked.good.schema == {"x": contract.POLARS_TYPES[rules.type]}
    return checked.good["x"].to_list(), checked.bad["reason"].to_list()


@pytest.mark.parametrize(
    ("kind", "values", "good", "bad"),
    [
        ("integer", ["1", " 2 ", "3.0", "-4", "1e3"], [1, 2, 3, -4, 1000], []),
        ("integer", ["abc", "1.5", "99999999999999999999"], [], ["abc", "1.5", "99999999999999999999"]),
        ("integer", [1.0, 2.5, 1e300], [1], ["2.5", "1e+300"]),
        ("integer", [True, False], [1, 0], []),
        ("integer", [dt.date(2020, 1, 1)], [], ["2020-01-01"]),
        ("number", ["1", " 2.5", "-1e-3"], [1.0, 2.5, -0.001], []),
        ("number", ["1,5", "inf", "NaN", "12 €"], [], ["1,5", "inf", "NaN", "12 €"]),
        ("number", [1, 2], [1.0, 2.0], []),
        ("number", [1.5, math.inf, -math.inf], [1.5], ["inf", "-inf"]),
        ("number", [dt.date(2020, 1, 1)], [], ["2020-01-01"]),
        ("boolean", ["true", "No", " Y ", "0", "f"], [True, False, True, False, False], []),
        ("boolean", ["maybe", "2"], [], ["maybe", "2"]),
        ("boolean", [1, 0, 2], [True, False], ["2"]),
        ("boolean", [1.0, 0.0, 0.5], [True, False], ["0.5"]),
        ("category", ["a", " b ", "ü"], ["a", "b", "ü"], []),
        ("category", [3, 4], ["3", "4"], []),
        ("text", [" as it is ", ""], [" as it is ", ""], []),
        ("date", ["2024-02-29", " 2024-03-01 "], [dt.date(2024, 2, 29), dt.date(2024, 3, 1)], []),
        ("date", ["2023-02-29", "1.3.2024"], [], ["2023-02-29", "1.3.2024"]),
        ("date", [dt.datetime(2024, 3, 1, 12)], [dt.date(2024, 3, 1)], []),
        ("date", [5], [], ["5"]),
        ("datetime", ["2024-03-01", "2024-03-01T06:30"], [dt.datetime(2024, 3, 1, tzinfo=dt.UTC), dt.datetime(2024, 3, 1, 6, 30, tzinfo=dt.UTC)], []),
        ("datetime", ["2024-03-01 06:30:15.25", "2024-03-01T06:30:00Z"], [dt.datetime(2024, 3, 1, 6, 30, 15, 250_000, dt.UTC), dt.datetime(2024, 3, 1, 6, 30, tzinfo=dt.UTC)], []),
        ("datetime", ["2024-03-01T06:30:00+02:00"], [dt.datetime(2024, 3, 1, 4, 30, tzinfo=dt.UTC)], []),
        ("datetime", ["2024-03-01T06:30+02:00", "2024-03-01 06:30:15.5-0030"], [dt.datetime(2024, 3, 1, 4, 30, tzinfo=dt.UTC), dt.datetime(2024, 3, 1, 7, 0, 15, 500_000, dt.UTC)], []),
        ("datetime", ["noon"], [], ["noon"]),
        ("datetime", [dt.date(2024, 3, 1)], [dt.datetime(2024, 3, 1, tzinfo=dt.UTC)], []),
        ("datetime", [7], [], ["7"]),
    ],
)  # fmt: skip
def test_values_are_cast_or_told_why_not(kind, values, good, bad):
    assert divided(values, column(kind)) == (good, [f"x: expected {kind}, found '{value}'" for value in bad])


@pytest.mark.parametrize("dtype", [pl.Categorical(), pl.Enum(["1", "2"])])
def test_codes_of_a_typed_file_are_as_good_as_text(dtype):
    assert divided(["1", "2"], column("integer"), dtype) == ([1, 2], [])


@pytest.mark.parametrize("dtype", [pl.String(), pl.Categorical(), pl.Enum(["a", " "])])
def test_a_category_of_white_space_is_missing_in_whatever_type_it_is_stored(dtype):
    assert divided(["a", " "], column("category", nullable=True), dtype) == (["a", None], [])
    assert divided(["a", " "], column("category"), dtype) == (["a"], ["x: expected a value, found none"])


@pytest.mark.parametrize("values", [[" a", " a"], [" a", " a", "c"]])
def test_what_becomes_of_a_row_does_not_hang_on_the_others(values):
    # A code with white space around it is never met: a value is stripped before it is compared.
    good, bad = divided(values, column("category", values=(" a", "b")))
    assert (good, len(bad)) == ([], len(values))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("integer", ["1", None, " "]),
        ("number", [1.0, None, math.nan]),
        ("category", ["a", None, "  "]),
        ("date", [dt.date(2024, 1, 1), None]),
        ("text", ["a", None]),
    ],
)
def test_a_missing_value_is_good_if_and_only_if_it_may_be(kind, values):
    good, bad = divided(values, column(kind, nullable=True))
    assert good[1:] == [None] * (len(values) - 1)
    assert bad == []
    good, bad = divided(values, column(kind))
    assert len(good) == 1
    assert bad == ["x: expected a value, found none"] * (len(values) - 1)


@pytest.mark.parametrize(
    ("rules", "values", "bad"),
    [
        (column("integer", min=1, max=3), ["0", "1", "3", "4"], {"0": "at least 1", "4": "at most 3"}),
        (column("integer", min=0.5), ["0", "1"], {"0": "at least 0.5"}),
        (column("number", min=-1.5), ["-1.5", "-1.6"], {"-1.6": "at least -1.5"}),
        (column("category", values=("a", "b")), ["a", " b", "c"], {"c": "one of a, b"}),
        (column("date", max="2024-01-01"), ["2024-01-01", "2024-01-02"], {"2024-01-02": "at most 2024-01-01"}),
        (column("datetime", min="2024-01-01T02:00+02:00"), ["2024-01-01", "2023-12-31"], {"2023-12-31": "at least 2024-01-01T02:00+02:00"}),
    ],
)  # fmt: skip
def test_bounds_are_inclusive_and_values_are_a_closed_list(rules, values, bad):
    good, reasons = divided(values, rules)
    assert reasons == [f"x: expected {rule}, found '{value}'" for value, rule in bad.items()]
    assert len(good) == len(values) - len(bad)


def test_a_row_tells_all_its_reasons_and_keeps_what_it_was():
    frame = pl.DataFrame({"age": ["30", "old", "-1"], "plan": ["a", "z", "a"], "more": ["x", "y", None]})
    rules = {"plan": column("category", values=("a",)), "age": column("integer", min=0)}
    checked = contract.check(frame, rules, source="in.csv", position=10)
    assert checked.good.to_dict(as_series=False) == {"plan": ["a"], "age": [30]}
    assert checked.kept.to_list() == [0]
    assert checked.bad.schema == contract.QUARANTINE_SCHEMA
    assert checked.bad.rows() == [
        ("in.csv", 11, "plan: expected one of a, found 'z'; age: expected integer, found 'old'", '{"age":"old","plan":"z","more":"y"}'),
        ("in.csv", 12, "age: expected at least 0, found '-1'", '{"age":"-1","plan":"a","more":null}'),
    ]  # fmt: skip
    assert checked.reasons == {"plan: values": 1, "age: integer": 1, "age: at least 0": 1}


def test_each_row_may_have_a_source_and_a_position_of_its_own():
    checked = contract.check(
        pl.DataFrame({"x": ["1", "a", "b"]}),
        {"x": column("integer")},
        source=pl.Series(["f", "f", "g"]),
        position=pl.Series([4, 5, 0]),
    )
    assert checked.bad.select("source", "position").rows() == [("f", 5), ("g", 0)]


def test_of_equal_keys_the_first_good_row_is_kept():
    frame = pl.DataFrame({"id": ["1", "1", "2", "1", None], "x": ["bad", "5", "6", "7", "8"]})
    rules = {"id": column("integer", nullable=True, unique=True), "x": column("integer")}
    checked = contract.check(frame, rules, source="s")
    assert checked.good.rows() == [(1, 5), (2, 6), (None, 8)]
    assert checked.reasons == {"x: integer": 1, "id: unique": 1}
    assert checked.bad["reason"][1] == "id: expected unique, an earlier row is the same"


def test_columns_may_be_unique_together():
    frame = pl.DataFrame({"a": [1, 1, 1], "b": ["x", "y", "x"]})
    rules = {"a": column("integer"), "b": column("category")}
    checked = contract.check(frame, rules, source="s", unique=("a", "b"))
    assert checked.bad["position"].to_list() == [2]
    assert checked.reasons == {"a, b: unique": 1}


def test_a_long_value_is_cut_in_the_reason_and_whole_in_the_row():
    value = "x" * 500
    checked = contract.check(pl.DataFrame({"n": [value]}), {"n": column("number")}, source="s")
    assert checked.bad["reason"][0] == f"n: expected number, found '{'x' * 60}…'"
    assert json.loads(checked.bad["row"][0]) == {"n": value}


def test_an_empty_table_stays_empty_and_gets_its_types():
    checked = contract.check(
        pl.DataFrame({"x": []}, schema={"x": pl.String}), {"x": column("date")}, source="s"
    )
    assert checked.good.schema == {"x": pl.Date}
    assert checked.bad.is_empty()


numbers = st.one_of(
    st.none(),
    st.integers(-20, 20).map(str),
    st.floats(-20, 20).map(lambda value: f"{value:.3f}"),
    st.sampled_from(["", " ", "x", " 7 ", "inf", "nan", "007", "+3", "1e1", "--1"]),
)


def as_python_reads(value: str | None, rules: Column) -> str:
    """good, or why not: the same rules, one value at a time."""
    if value is None or not value.strip():
        return "good" if rules.nullable else "missing"
    try:
        number = float(value)
    except ValueError:
        return rules.type
    if not math.isfinite(number) or (rules.type == "integer" and number != math.floor(number)):
        return rules.type
    if number < rules.min:
        return "at least -10"
    return "at most 10" if number > rules.max else "good"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(numbers, min_size=1, max_size=30),
    st.sampled_from(["integer", "number"]),
    st.booleans(),
)
def test_the_quick_way_divides_as_one_value_at_a_time_would(values, kind, nullable):
    rules = column(kind, nullable=nullable, min=-10, max=10)
    checked = contract.check(
        pl.DataFrame({"x": pl.Series(values, dtype=pl.String)}), {"x": rules}, source="s"
    )
    expected = [as_python_reads(value, rules) for value in values]
    assert checked.kept.to_list() == [at for at, rule in enumerate(expected) if rule == "good"]
    assert checked.bad["position"].to_list() == [at for at, rule in enumerate(expected) if rule != "good"]
    for rule in sorted(set(expected) - {"good"}):
        assert checked.reasons[f"x: {rule}"] == expected.count(rule)
    assert checked.good.height + checked.bad.height == len(values)


MIXED = {
    "integer": Column(type="integer", nullable=True, min=-5),
    "number": Column(type="number", max=9.5),
    "boolean": Column(type="boolean", nullable=True),
    "category": Column(type="category", nullable=True, values=("a", "b", " c", "")),
    "text": Column(type="text"),
    "date": Column(type="date", nullable=True, min="2020-01-01"),
    "datetime": Column(type="datetime", nullable=True),
}
words = st.one_of(
    numbers,
    st.sampled_from(["a", " b ", " c", "TRUE", "no", "2024-02-29", " 2019-01-01", "2024-02-29T10:00+02:00"]),
)
tables = st.integers(1, 12).flatmap(
    lambda rows: st.fixed_dictionaries(
        {name: st.lists(words, min_size=rows, max_size=rows) for name in ("key", *MIXED)}
    )
)


def in_chunks(table: dict[str, list], size: int) -> pl.DataFrame:
    """As a reader of large files leaves it: several pieces, that polars does not treat as it does one."""
    whole = pl.DataFrame(table, schema=dict.fromkeys(table, pl.String))
    return pl.concat([whole[at : at + size] for at in range(0, whole.height, size)], rechunk=False)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 12))
def test_the_plain_cast_gives_what_the_careful_one_gives(table, size):
    frame = in_chunks(table, size)
    careful = frame.select(
        **{name: contract.typed(name, rules.type, pl.String()) for name, rules in MIXED.items()}
    )
    assert contract._cast(frame, MIXED).equals(careful)
    for name, rules in MIXED.items():
        assert contract._cast(frame, {name: rules}).equals(careful.select(name))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["integer", "number", "boolean", "category", "text"]),
    st.one_of(
        st.lists(st.none() | st.integers(-3, 2**62), min_size=1).map(lambda v: pl.Series("x", v, pl.Int64)),
        st.lists(st.none() | st.floats(), min_size=1).map(lambda v: pl.Series("x", v, pl.Float64)),
        st.lists(st.none() | st.integers(0, 2**64 - 1), min_size=1).map(
            lambda v: pl.Series("x", v, pl.UInt64)
        ),
        st.lists(st.none() | st.booleans(), min_size=1).map(lambda v: pl.Series("x", v, pl.Boolean)),
    ),
)
def test_the_plain_cast_gives_what_the_careful_one_gives_for_typed_columns(kind, series):
    frame = series.to_frame()
    careful = frame.select(x=contract.typed("x", kind, series.dtype))
    assert contract._cast(frame, {"x": Column(type=kind)}).equals(careful)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 12))
def test_every_row_of_a_table_is_once_in_good_or_bad_and_in_its_order(table, size):
    frame = in_chunks(table, size)
    rules = {"key": Column(type="category", nullable=True, unique=True), **MIXED}
    checked = contract.check(frame, rules, source="s", position=100, unique=("text", "integer"))
    kept, bad = checked.kept.to_list(), [at - 100 for at in checked.bad["position"].to_list()]
    assert sorted(kept + bad) == list(range(frame.height))
    assert (kept, bad) == (sorted(kept), sorted(bad))
    assert checked.good.schema == {name: contract.POLARS_TYPES[entry.type] for name, entry in rules.items()}
    assert all(checked.bad["reason"].to_list())
    # Of a row in quarantine nothing is lost, and a good one is that of the input.
    assert [json.loads(row) for row in checked.bad["row"]] == frame[bad].to_dicts()
    assert checked.good["text"].to_list() == frame["text"].gather(kept).to_list()
    assert checked.good["key"].drop_nulls().is_unique().all()
    # What was found good stays good when asked again.
    again = contract.check(checked.good, rules, source="s", unique=("text", "integer"))
    assert again.good.equals(checked.good)


# --- the columns ------------------------------------------------------------------------------------

FRAME = pl.DataFrame({"tenure": ["1", "2"], "plan": ["a", "b"], "note": ["x", None]})


def types_of(columns: dict[str, Column]) -> dict[str, str]:
    return {name: entry.type for name, entry in columns.items()}


def test_named_columns_come_first_then_the_others_as_they_are_found():
    rules = Contract(columns={"plan": column("text")})
    columns = contract.complete(rules, FRAME, source="s")
    assert types_of(columns) == {"plan": "text", "tenure": "integer", "note": "category"}
    assert list(columns) == ["plan", "tenure", "note"]
    assert columns["note"].nullable


def test_the_default_is_for_all_that_are_not_named():
    rules = Contract(
        columns={"tenure": column("integer")}, default=column("text", nullable=True), others="forbid"
    )
    assert types_of(contract.complete(rules, FRAME, source="s")) == {
        "tenure": "integer",
        "plan": "text",
        "note": "text",
    }


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (Contract(columns={"tenur": column("integer")}), r"in\.csv: .*not there: 'tenur'\n.*'tenur' may be 'tenure'"),
        (Contract(columns={"zzz": column("integer")}), r"'zzz'\n.*there are: 'tenure', 'plan', 'note'"),
        (Contract(others="forbid"), r"does not name: 'tenure', 'plan', 'note'"),
        (Contract(unique=("tenur",)), r"contract\.unique names 'tenur'.*\n.*did you mean 'tenure'"),
        (Contract(columns={"tenure": column("date", min="soon")}), r"contract\.columns\.tenure: the bound 'soon' is no date"),
        (Contract(columns={"tenure": column("integer", max="many")}), r"the bound 'many' is no integer"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_the_contract_are_named(rules, says):
    with pytest.raises(PenstockError, match=says):
        contract.complete(rules, FRAME, source="in.csv")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2.0", None], "integer"),
        (["1", "2.5"], "number"),
        (["007", "12"], "category"),
        (["true", "False"], "boolean"),
        (["yes", "no"], "category"),
        (["2024-01-01", "2024-02-01"], "date"),
        (["2024-01-01 10:00", "2024-02-01"], "datetime"),
        (["2024-01-01", "soon"], "category"),
        ([f"sentence number {i}" for i in range(60)], "text"),
        (["a", "b"] * 60, "category"),
        ([*map(str, range(2000)), "x"], "text"),
        ([1, 2], "integer"),
        ([0.5], "number"),
        ([True], "boolean"),
        ([dt.date(2024, 1, 1)], "date"),
        ([dt.datetime(2024, 1, 1)], "datetime"),
    ],
)
def test_a_type_is_inferred_from_all_values(values, kind):
    columns = contract.complete(Contract(), pl.DataFrame({"x": values}), source="s")
    assert columns == {"x": column(kind, nullable=True)}
    assert contract.check(pl.DataFrame({"x": values}), columns, source="s").bad.is_empty()


@pytest.mark.parametrize("rules", [Contract(), Contract(columns={"x": column("integer")})])
def test_a_column_without_any_value_is_named(rules):
    with pytest.raises(PenstockError, match=r"'x' has no value at all.*\n.*source\.drop: \[x\]"):
        contract.complete(rules, pl.DataFrame({"x": [None, None]}, schema={"x": pl.String}), source="s")


def test_a_column_without_any_value_may_be_so_by_contract():
    rules = Contract(columns={"x": column("integer", nullable=True)})
    frame = pl.DataFrame({"x": [None, None]})
    columns = contract.complete(rules, frame, source="s")
    assert contract.check(frame, columns, source="s").good["x"].to_list() == [None, None]


@pytest.mark.parametrize("values", [[[1]], [{"a": 1}], [b"x"], [dt.timedelta(1)]])
def test_a_type_that_no_column_can_have_is_named(values):
    with pytest.raises(PenstockError, match=r"'x' is .*no type of a contract"):
        contract.complete(Contract(columns={"x": column("text")}), pl.DataFrame({"x": values}), source="s")


def test_a_target_that_is_not_there_is_named_with_what_is_near():
    with pytest.raises(PenstockError, match=r"no column 'tenures'.*\n.*did you mean 'tenure'"):
        contract.require_target("tenures", FRAME)
    contract.require_target("tenure", FRAME)


BAD = pl.DataFrame([("in.csv", 3, "x: expected integer, found 'a'", "{}")] * 2, schema=contract.QUARANTINE_SCHEMA, orient="row")  # fmt: skip


def test_the_share_in_quarantine_is_given_up_to_what_is_allowed():
    file = Path("q.parquet")
    assert contract.limit_quarantine(BAD, {"x: integer": 2}, rows=20, allowed=0.1, file=file) == 0.1
    assert contract.limit_quarantine(BAD.clear(), {}, rows=20, allowed=0.0, file=file) == 0.0


@pytest.mark.parametrize(("rows", "allowed"), [(20, 0.09), (2, 1.0)])
def test_too_many_in_quarantine_is_an_error_that_shows_the_worst(rows, allowed):
    with pytest.raises(PenstockError) as caught:
        contract.limit_quarantine(
            BAD, {"x: integer": 2, "y: missing": 1}, rows=rows, allowed=allowed, file=Path("q.parquet")
        )
    assert "2 × x: integer" in str(caught.value)
    assert "2 × x: expected integer, found 'a'" in str(caught.value)
    assert "first: row 3 of in.csv: x: expected integer, found 'a'" in str(caught.value)
    assert "q.parquet" in str(caught.value)
