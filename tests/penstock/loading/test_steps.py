"""Steps that look at one row at a time: what they make, what they send away, and what they say."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from tests.penstock.loading.stepping import stepped, traced, transformation

ROWS = traced(
    pl.DataFrame(
        {
            "id": [1, 2, 3, 4],
            "code": ["a", "b", None, "zz"],
            "x": [1.0, None, 3.5, 4.0],
            "day": [date(2024, 1, 1), date(2024, 1, 2), None, date(2024, 1, 4)],
            "at": [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in (1, 2, 3, 4)],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
)
LINEAGE = ["_source", "_position", "_load"]


# --- what is sent to quarantine ---------------------------------------------------------------------


def test_an_unmapped_code_goes_to_quarantine_with_the_row_as_it_was():
    made = stepped(
        ROWS,
        {"op": "derive", "columns": {"y": "id * 2"}},
        {"op": "map", "column": "code", "codes": {"a": "apple", "b": None}},
    )
    assert made.frame["code"].to_list() == ["apple", None, None]
    assert made.reasons == {"code: codes": 1}
    row = made.bad.row(0, named=True)
    assert (row["source"], row["position"]) == ("here", 3)
    assert row["reason"] == "code: expected a code that is mapped, found 'zz'"
    kept = json.loads(row["row"])
    assert (kept["id"], kept["code"], kept["y"]) == ("4", "zz", "8")
    assert not set(kept) & set(LINEAGE)
    assert made.bad.schema == QUARANTINE_SCHEMA


def test_a_row_may_fail_a_cast_in_several_columns():
    made = stepped(ROWS, {"op": "cast", "columns": {"code": "integer", "x": "integer"}})
    assert made.frame["id"].to_list() == []
    assert made.reasons == {"code: integer": 3, "x: integer": 1}
    assert made.bad["reason"].to_list() == [
        "code: expected integer, found 'a'",
        "code: expected integer, found 'b'",
        "x: expected integer, found '3.5'",
        "code: expected integer, found 'zz'",
    ]


def test_a_long_value_is_cut_in_the_reason():
    frame = traced(pl.DataFrame({"s": ["q" * 100]}))
    assert stepped(frame, {"op": "cast", "columns": {"s": "date"}}).bad["reason"].item().endswith("q…'")


def test_a_cast_may_fail_the_load_or_leave_values_out():
    left = stepped(ROWS, {"op": "cast", "columns": {"code": "integer"}, "on_error": None})
    assert left.frame["code"].to_list() == [None] * 4
    assert left.frame.schema["code"] == pl.Int64
    assert left.bad.height == 0
    with pytest.raises(
        PenstockError, match=r"steps\[0\] \(cast\): 3 rows, the first: code: expected integer, found 'a'"
    ):
        stepped(ROWS, {"op": "cast", "columns": {"code": "integer"}, "on_error": "fail"})


def test_a_missing_value_is_neither_unmapped_nor_unfit():
    empty = traced(pl.DataFrame({"s": [" ", None, "", "4 "], "x": [float("nan"), None, 1.0, 2.0]}))
    made = stepped(empty, {"op": "cast", "columns": {"s": "integer", "x": "integer"}})
    assert made.frame["s"].to_list() == [None, None, None, 4]
    assert made.frame["x"].to_list() == [None, None, 1, 2]


@pytest.mark.parametrize(
    ("step", "expected", "kind"),
    [
        ({"unmapped": "keep"}, ["A", "b", None, "zz"], pl.String),
        ({"unmapped": None}, ["A", None, None, None], pl.String),
        ({"default": "?"}, ["A", "?", None, "?"], pl.String),
    ],
)
def test_what_becomes_of_codes_that_are_not_mapped(step, expected, kind):
    made = stepped(ROWS, {"op": "map", "column": "code", "codes": {"a": "A"}, **step})
    assert made.frame["code"].to_list() == expected
    assert made.frame.schema["code"] == kind


def test_codes_may_be_numbers_and_words_may_be_too():
    made = stepped(
        ROWS, {"op": "map", "column": "x", "codes": {1: 10, 3.5: 35}, "into": "y", "unmapped": "null"}
    )
    assert made.frame["y"].to_list() == [10, None, 35, None]
    assert made.frame["x"].to_list() == [1.0, None, 3.5, 4.0]
    kept = stepped(ROWS, {"op": "map", "column": "id", "codes": {1: 100}, "unmapped": "keep"})
    assert kept.frame["id"].to_list() == [100, 2, 3, 4]


def test_the_type_of_words_does_not_hang_on_which_codes_turn_up():
    step = {"op": "map", "column": "code", "codes": {"a": 1, "b": 2.5}, "unmapped": "null"}
    parts = [stepped(ROWS.slice(at, 1), step).frame.schema for at in range(4)]
    assert all(part["code"] == pl.Float64 for part in parts)


# --- the rest ---------------------------------------------------------------------------------------


def test_columns_are_renamed_all_at_once():
    made = stepped(ROWS, {"op": "rename", "columns": {"id": "x", "x": "id"}})
    assert made.frame["x"].to_list() == [1, 2, 3, 4]


def test_keeping_columns_keeps_lineage():
    made = stepped(ROWS, {"op": "keep", "columns": ["x", "id"]})
    assert made.frame.columns == ["x", "id", *LINEAGE]


@pytest.mark.parametrize(
    ("values", "column", "expected"),
    [
        ({"x": 7}, "x", [1.0, 7.0, 3.5, 4.0]),
        (
            {"day": "2020-02-29"},
            "day",
            [date(2024, 1, 1), date(2024, 1, 2), date(2020, 2, 29), date(2024, 1, 4)],
        ),
        ({"code": "none"}, "code", ["a", "b", "none", "zz"]),
    ],
)
def test_what_is_missing_is_filled_in_the_type_of_the_column(values, column, expected):
    made = stepped(ROWS, {"op": "fill", "columns": values})
    assert made.frame[column].to_list() == expected
    assert made.frame.schema == ROWS.schema


def test_what_is_derived_is_of_a_type_of_a_contract_and_no_number_is_infinite():
    made = stepped(
        ROWS,
        {
            "op": "derive",
            "columns": {
                "hour": "EXTRACT(hour FROM at)",
                "one": "1",
                "none": "NULL",
                "price": "CAST(x AS DECIMAL(10, 1))",
                "inf": "id / 0",
                "nan": "LN(0 - x)",
                "moment": "STRPTIME('2024-05-06', '%Y-%m-%d')",
            },
        },
    ).frame
    assert [made.schema[name] for name in ("hour", "one", "none", "price", "inf", "moment")] == [
        pl.Int64, pl.Int64, pl.String, pl.Float64, pl.Float64, pl.Datetime("us", "UTC"),
    ]  # fmt: skip
    assert made["inf"].null_count() == made["nan"].null_count() == 4


def test_expressions_of_one_step_see_the_columns_from_before_it():
    made = stepped(ROWS, {"op": "derive", "columns": {"id": "id + 1", "y": "id * 10"}})
    assert made.frame["y"].to_list() == [10, 20, 30, 40]


def test_a_filter_counts_what_is_false_and_what_cannot_be_told():
    made = stepped(ROWS, {"op": "filter", "where": "x > 1"}, {"op": "filter", "where": "id < 4"})
    assert made.frame["id"].to_list() == [3]
    assert made.filtered == 3


# --- what is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "message", "hint"),
    [
        ({"op": "drop", "columns": ["cod"]}, "there is no column 'cod'", "did you mean 'code'?"),
        ({"op": "keep", "columns": ["CODE"]}, "there is no column 'CODE'", "did you mean 'code'?"),
        ({"op": "rename", "columns": {"q": "r"}}, "there is no column 'q'", "there are: id, code, x, day, at"),
        ({"op": "rename", "columns": {"id": "x"}}, "there would be two columns 'x'", "drop or rename"),
        ({"op": "rename", "columns": {"id": "_load"}}, "'_load' says where a row is from", "another name"),
        ({"op": "drop", "columns": ["_source"]}, "'_source' says where a row is from", "another name"),
        ({"op": "derive", "columns": {"_position": "id"}}, "'_position' says where", "another name"),
        ({"op": "map", "column": "code", "codes": {"a": "b"}, "into": "_load"}, "'_load' says where", "another"),
        ({"op": "fill", "columns": {"x": "a"}}, "'x' is number, and 'a' is none", ""),
        ({"op": "fill", "columns": {"id": 1.5}}, "'id' is integer, and 1.5 is none", ""),
        ({"op": "fill", "columns": {"code": 1}}, "'code' is text, and 1 is none", ""),
        ({"op": "fill", "columns": {"day": "Monday"}}, "'day' is date, and 'Monday' is none", ""),
        ({"op": "filter", "where": "x"}, "'x' is number, not true or false", "x > 0"),
        ({"op": "filter", "where": "idd > 1"}, "'idd > 1': there is no column 'idd'", "did you mean 'id'?"),
        ({"op": "derive", "columns": {"y": "x + 1", "z": "cods"}}, "z: 'cods': there is no column 'cods'", "'code'"),
        ({"op": "derive", "columns": {"y": "code > 1"}}, "y: 'code > 1': cannot compare string", "go together"),
        ({"op": "derive", "columns": {"y": "day > '2024-01-01'"}}, "y: \"day > '2024", "DATE '2024-12-31'"),
        ({"op": "derive", "columns": {"y": "at - day"}}, "'y' is duration", "CAST(later - earlier AS BIGINT)"),
        ({"op": "derive", "columns": {"w": "id", "y": "CAST(code AS BIGINT)"}}, "y: 'CAST(code AS BIGINT)': conv", "TRY_CAST"),
    ],
)  # fmt: skip
def test_an_error_names_the_step_the_expression_and_what_is_near(step, message, hint):
    with pytest.raises(PenstockError) as error:
        stepped(ROWS, {"op": "derive", "columns": {"fine": "id"}}, step)
    assert error.value.message.startswith(f"steps[1] ({step['op']}): ")
    assert message in error.value.message
    assert hint in error.value.hint.replace("fine, ", "").replace(", fine", "")


def test_the_step_that_fails_is_named_where_only_a_value_shows_it():
    steps = [
        {"op": "derive", "columns": {"y": "CAST(id AS TEXT) || 'q'"}},
        {"op": "filter", "where": "id > 2"},
        {"op": "derive", "columns": {"z": "id", "n": "CAST(y AS BIGINT)"}},
        {"op": "drop", "columns": ["y"]},
    ]
    with pytest.raises(
        PenstockError, match=r"steps\[2\] \(derive\): n: 'CAST\(y AS BIGINT\)': conversion.*\"3q\""
    ):
        stepped(ROWS, *steps)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"op": "map", "column": "c", "codes": {True: "x"}}, "write such codes in quotes"),
        ({"op": "map", "column": "c", "codes": {}}, "at least 1"),
        ({"op": "map", "column": "c", "codes": {"a": "b"}, "unmapped": "default"}, "goes with `unmapped: default`"),
        ({"op": "map", "column": "c", "codes": {"a": "b"}, "unmapped": "keep", "default": "c"}, "goes with"),
        ({"op": "join", "input": "i", "on": ["a"], "tolerance": "1h"}, "`tolerance` goes with `how: asof`"),
        ({"op": "join", "input": "i", "on": ["a"], "how": "anti", "columns": ["b"]}, "adds no `columns`"),
        ({"op": "window", "order_by": ["a"], "columns": {"r": {"function": "lag"}}}, "`lag` needs `column`"),
        ({"op": "window", "order_by": ["a"], "columns": {"r": {"function": "rolling_sum", "column": "x"}}}, "one of `rows`"),
        ({"op": "window", "order_by": ["a", "b"], "columns": {"r": {"function": "rolling_sum", "column": "x", "within": "1h"}}}, "one column of `order_by`"),
        ({"op": "explode"}, "explode"),
    ],
)  # fmt: skip
def test_what_cannot_be_declared_is_told(step, told):
    with pytest.raises(ValidationError, match=told):
        transformation([step])


def test_a_step_on_is_a_word_whatever_yaml_makes_of_it():
    joined = transformation([{"op": "join", "input": "i", True: ["a"]}], {"i": "none.parquet"})
    assert joined.each[0][1].on == ("a",)


def test_steps_that_judge_rows_come_before_those_that_need_all_of_them():
    whole = {"op": "deduplicate", "keys": ["id"]}
    for step in (
        {"op": "cast", "columns": {"x": "integer"}},
        {"op": "map", "column": "code", "codes": {"a": "b"}},
    ):
        assert transformation([step, whole]).rowwise is False
        with pytest.raises(PenstockError, match=r"steps\[1\] .*no origin that quarantine could name"):
            transformation([whole, step])


# --- what holds for any steps -----------------------------------------------------------------------

frames = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-5, 5)),
        st.one_of(st.none(), st.sampled_from(["a", "b", "7", " 8 ", "x", ""])),
        st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.5, -1e300, float("nan")])),
    ),
    max_size=12,
).map(
    lambda rows: traced(
        pl.DataFrame(rows, schema={"n": pl.Int64, "s": pl.String, "x": pl.Float64}, orient="row")
    )
)
one_step = st.sampled_from(
    [
        {"op": "map", "column": "s", "codes": {"a": "b", "b": "7", "7": None, " 8 ": "9"}},
        {"op": "map", "column": "s", "codes": {"a": "7"}, "default": "x"},
        {"op": "map", "column": "n", "codes": {1: 2, 2: 3}, "unmapped": "keep"},
        {"op": "cast", "columns": {"s": "integer", "x": "integer"}},
        {"op": "cast", "columns": {"s": "number"}, "on_error": "null"},
        {"op": "cast", "columns": {"s": "text", "n": "number"}},
        {"op": "fill", "columns": {"x": 3}},
        {"op": "filter", "where": "n > 0 OR x < 2"},
        {"op": "filter", "where": "s IS NOT NULL"},
        {"op": "derive", "columns": {"x": "x / n", "n": "n + 1"}},
        {"op": "derive", "columns": {"s": "TRIM(CAST(s AS TEXT)) || 'a'"}},
        {"op": "join", "input": "few", "on": {"n": "key"}, "suffix": "_few"},
        {"op": "join", "input": "few", "on": {"n": "key"}, "how": "semi"},
        {"op": "join", "input": "few", "on": {"n": "key"}, "how": "anti"},
    ]
)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "few.parquet"
    pl.DataFrame({"key": [1, 2, -3], "word": ["one", "two", None]}).write_parquet(path)
    return path


@settings(deadline=None)
@given(frame=frames, steps=st.lists(one_step, max_size=5), size=st.integers(1, 5))
def test_rows_add_up_and_the_size_of_chunks_does_not_matter(few, frame, steps, size):
    whole_steps = transformation(steps, {"few": few})
    try:
        whole = whole_steps.apply(frame)
    except PenstockError as error:
        # The columns of one join twice, or the sum of a text: told of any chunk, with the same words.
        with pytest.raises(PenstockError, match=re.escape(error.message[:20])):
            whole_steps.apply(frame.head(size))
        return
    assert frame.height == whole.frame.height + whole.filtered + whole.bad.height
    assert sum(whole.reasons.values()) >= whole.bad.height
    assert set(whole.frame["_position"]).isdisjoint(whole.bad["position"])
    parts = [whole_steps.apply(frame.slice(at, size)) for at in range(0, frame.height, size)]
    if parts:
        assert_frame_equal(pl.concat([part.frame for part in parts]), whole.frame)
        assert_frame_equal(pl.concat([part.bad for part in parts]), whole.bad, check_row_order=False)
        assert sum(part.filtered for part in parts) == whole.filtered
